"""What a step is made of: annotated and pseudo-labeled crops, mixed or whole."""

from __future__ import annotations

from dataclasses import dataclass

from uncol.method import schedules
from uncol.method.stages import PSEUDO_WEIGHT

WHOLE_SHARE = 0.75  # pseudo-labeled crops per annotated one where crops are not mixed


@dataclass(frozen=True)
class Composition:
    """A step of stage 2.

    Attributes:
        annotated: annotated crops.
        others: pseudo-labeled crops; as many as annotated ones if they are mixed.
        weight: of the pseudo-labeled part.
    """

    annotated: int
    others: int
    weight: float


def smallest_batch(*, mixed: bool) -> int:
    """Return the fewest crops per step: mixing needs two."""
    return 2 if mixed else 1


def compose(batch: int, progress: float, *, mixed: bool, unlabeled: bool) -> Composition:
    """Compose a step of stage 2.

    In a few hundred steps, a student learns little beyond the annotations. So where crops are not
    mixed, a step keeps the annotated crops that it would have without unlabeled scans, and the
    weight of pseudo-labels ramps up (docs/training.md). There are fewer pseudo-labeled crops, so
    that the step costs less than twice as much.

    Args:
        batch: crops of a step that mixes, or that has annotated crops alone.
        progress: of stage 2, from 0 to below 1.
        mixed: whether crops are copy-pasted into each other.
        unlabeled: whether there are unlabeled scans; without, all crops are annotated.
    """
    half = max(1, batch // 2)
    if mixed:
        return Composition(half, half, PSEUDO_WEIGHT)
    if not unlabeled:
        return Composition(half, half, 1.0)
    ramp = schedules.sigmoid_ramp(progress)
    return Composition(batch, max(1, int(WHOLE_SHARE * batch)), PSEUDO_WEIGHT * ramp)
