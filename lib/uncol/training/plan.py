"""How long a run trains, and how much of the generalist it can afford.

| | CPU | GPU |
|---|---|---|
| stage 1 steps | 400 + 8 per labeled case, to 1,200 | 2,000 + 250 per labeled case, to 15,000 |
| stage 2 steps | 400 + 2 per case of the pool, to 2,000 | 4,000 + 50 per case, to 15,000 |
| generalist | 6 slices per labeled case (96 in all), 2 per unlabeled one (96 in all) | all |

The first rounds have few cases and stay short; a later round, with more to learn from, may take
longer. A round that goes on from the served version has a quarter of the steps. Steps depend on
nothing else, so the same pool and seed give the same run.
"""

from __future__ import annotations

from dataclasses import replace

from uncol.versions.manifest import Plan

EVERY_SLICE = 10_000
CONTINUED = 0.25  # of the steps, where a round goes on from a version


def make_plan(
    labeled: int, unlabeled: int, *, gpu: bool, scale: float = 1.0, continued: bool = False
) -> Plan:
    """Plan a run.

    Args:
        labeled: number of training cases with an annotation.
        unlabeled: number of cases without.
        gpu: whether training runs on a GPU.
        scale: multiplies both stages' steps.
        continued: whether it goes on from a version.
    """
    scale = scale * CONTINUED if continued else scale
    pool = labeled + unlabeled
    if gpu:
        pretrain = min(2000 + 250 * labeled, 15_000)
        finetune = min(4000 + 50 * pool, 15_000)
        slices = (EVERY_SLICE, EVERY_SLICE)
    else:
        pretrain = min(400 + 8 * labeled, 1200)
        finetune = min(400 + 2 * pool, 2000)
        slices = (_slices_per_case(96, labeled, 6), _slices_per_case(96, unlabeled, 2))
    pretrain, finetune = (max(1, round(n * scale)) for n in (pretrain, finetune))
    return with_steps(Plan(pretrain, finetune, *slices, prompt_every=1), pretrain, finetune)


def with_steps(plan: Plan, pretrain: int, finetune: int) -> Plan:
    """Return a plan with other steps; the generalist is prompted twice in stage 2."""
    return replace(
        plan,
        pretrain_steps=pretrain,
        finetune_steps=finetune,
        prompt_every=max(1, -(-finetune // 2)),
    )


def _slices_per_case(budget: int, cases: int, most: int) -> int:
    """Return views per case, at least one, within a budget for all of them."""
    return max(1, min(most, budget // max(cases, 1)))
