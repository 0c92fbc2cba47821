"""Dice of label maps per label, and HD95 and ASD in mm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from torch import from_numpy

from uncol.data.labels import IGNORE_VALUE
from uncol.types import Array


@dataclass(frozen=True)
class Scores:
    """How well one label was found in one case.

    Attributes:
        dice: in [0, 1]; NaN where both masks are empty, 0 where only one is.
        hd95_mm: 95th percentile Hausdorff distance; NaN where a mask is empty.
        asd_mm: average symmetric surface distance; NaN where a mask is empty.
    """

    dice: float
    hd95_mm: float
    asd_mm: float


def dice(prediction: Array, truth: Array) -> float:
    """Return 2 |A and B| / (|A| + |B|) of two bool masks; NaN if both are empty."""
    total = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / total if total else float("nan")


def dice_per_label(
    prediction: Array, truth: Array, labels: Mapping[str, int], *, released: bool = False
) -> dict[str, float]:
    """Return each label's Dice over annotated voxels; NaN for a label that neither map has.

    Args:
        prediction: `(I, J, K)` label values.
        truth: the same shape; voxels of value 255 are not annotated and do not count.
        labels: name to value.
        released: 0 where either mask is empty (difference 9).
    """
    known = truth != IGNORE_VALUE
    result = {}
    for name, value in labels.items():
        predicted, wanted = (prediction == value) & known, truth == value
        empty = released and not (predicted.any() and wanted.any())
        result[name] = 0.0 if empty else dice(predicted, wanted)
    return result


def scores(
    prediction: Array,
    truth: Array,
    spacing_mm: tuple[float, float, float],
    *,
    released: bool = False,
) -> Scores:
    """Return all metrics of two bool masks `(I, J, K)`.

    Args:
        prediction: the student's mask.
        truth: the annotation.
        spacing_mm: voxel size.
        released: 0 for everything where a mask is empty (difference 9), which flatters distances.
    """
    if not prediction.any() or not truth.any():
        if released:
            return Scores(0.0, 0.0, 0.0)
        nan = float("nan")
        return Scores(dice(prediction, truth), nan, nan)
    batch = [from_numpy(mask.astype(np.float32))[None, None] for mask in (prediction, truth)]
    distances = {"include_background": True, "spacing": list(spacing_mm)}
    hd95 = compute_hausdorff_distance(*batch, percentile=95, **distances)
    asd = compute_average_surface_distance(*batch, symmetric=True, **distances)
    return Scores(dice(prediction, truth), float(hd95), float(asd))


def mean_of(values: Mapping[str, float]) -> float:
    """Return the mean over labels that occur; NaN if none does."""
    known = [value for value in values.values() if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
