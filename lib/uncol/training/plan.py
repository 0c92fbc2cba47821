"""How long a run trains, and how much of the generalist it can afford.

| | CPU | GPU |
|---|---|---|
| stage 1 steps | 220 + 8 a labeled case, to 800 | 2,000 + 250 a labeled case, to 15,000 |
| stage 2 steps | 220 + 2 a case of the pool, to 2,000 | 4,000 + 50 a case, to 15,000 |
| generalist | 6 slices a labeled case (at most 96 in all), 2 an unlabeled one (at most 96) | all |

The first rounds have few cases and stay short; a later round, with more to learn from, may take
longer. Steps depend on nothing but these counts, so the same pool and seed give the same run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """A run's budget.

    Attributes:
        pretrain_steps: steps of stage 1.
        finetune_steps: steps of stage 2.
        labeled_slices: views of the generalist a labeled case.
        unlabeled_slices: views of the generalist an unlabeled case.
        prompt_every: stage-2 steps between two rounds of prompting the generalist.
    """

    pretrain_steps: int
    finetune_steps: int
    labeled_slices: int
    unlabeled_slices: int
    prompt_every: int

    @property
    def steps(self) -> int:
        """Steps of both stages."""
        return self.pretrain_steps + self.finetune_steps


EVERY_SLICE = 10_000


def make_plan(labeled: int, unlabeled: int, *, gpu: bool, scale: float = 1.0) -> Plan:
    """Plan a run.

    Args:
        labeled: training cases with annotation.
        unlabeled: cases without.
        gpu: whether a GPU computes it.
        scale: multiplies both stages' steps.
    """
    pool = labeled + unlabeled
    if gpu:
        pretrain = min(2000 + 250 * labeled, 15_000)
        finetune = min(4000 + 50 * pool, 15_000)
        slices = (EVERY_SLICE, EVERY_SLICE)
    else:
        pretrain = min(220 + 8 * labeled, 800)
        finetune = min(220 + 2 * pool, 2000)
        slices = (_share(96, labeled, 6), _share(96, unlabeled, 2))
    pretrain, finetune = (max(1, round(n * scale)) for n in (pretrain, finetune))
    return Plan(pretrain, finetune, *slices, prompt_every=max(1, -(-finetune // 2)))


def _share(budget: int, cases: int, most: int) -> int:
    """Return views a case, at least one, within a budget for all of them."""
    return max(1, min(most, budget // max(cases, 1)))
