"""What a step is made of: annotated and pseudo-labeled crops, mixed or whole."""

from __future__ import annotations

from dataclasses import dataclass

from uncol.method import schedules
from uncol.method.mode import Mode
from uncol.method.parts import Parts
from uncol.method.stages import PSEUDO_WEIGHT
from uncol.networks.presets import Preset

WHOLE = 0.75  # pseudo-labeled crops for an annotated one where crops are not mixed


@dataclass(frozen=True)
class Composition:
    """A step of stage 2.

    Attributes:
        annotated: annotated crops.
        others: pseudo-labeled crops, as many if they are mixed.
        weight: of the pseudo-labeled part.
    """

    annotated: int
    others: int
    weight: float


def mixes(preset: Preset, mode: Mode, parts: Parts) -> bool:
    """Return whether crops are copy-pasted into each other."""
    if parts.mixing is None:
        return preset.mixing or mode.mixes_always
    return parts.mixing


def smallest_batch(*, mixed: bool) -> int:
    """Return the fewest crops a step: mixing needs two."""
    return 2 if mixed else 1


def compose(preset: Preset, progress: float, *, mixed: bool, unlabeled: bool) -> Composition:
    """Compose a step of stage 2.

    A few hundred steps learn little else than what is annotated. So where crops are not mixed,
    those annotated are as many as without unlabeled scans, and pseudo-labels count from later on
    (docs/experiments.md); they are fewer, for the step to cost less than twice.

    Args:
        preset: the batch, and whether mixing suits it; where an ablation alone leaves mixing out,
            all else stays as it is.
        progress: of stage 2, from 0 to 1.
        mixed: see `mixes`.
        unlabeled: whether there are unlabeled scans; without, all crops are annotated.
    """
    half = max(1, preset.batch // 2)
    if not mixed and not unlabeled:
        return Composition(half, half, 1.0)
    if mixed or preset.mixing:
        return Composition(half, half, PSEUDO_WEIGHT)
    ramp = schedules.sigmoid_ramp(progress)
    return Composition(preset.batch, max(1, int(WHOLE * preset.batch)), PSEUDO_WEIGHT * ramp)
