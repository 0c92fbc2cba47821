"""From a prediction to what a client gets: label, map, bands, quality and places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from uncol.data.frame import Frame, Space
from uncol.data.preprocess import prepare
from uncol.data.scan import LPS_TO_RAS, Grid, Volume
from uncol.inference.predict import Prediction, Shape, predict
from uncol.types import Array
from uncol.uncertainty import soft_dice_confidence

BAND_HIGH = 0.5  # normalized entropy; with two classes, a top probability under 0.89
BAND_MEDIUM = 0.25
MAX_ROIS = 5
MIN_ROI_VOXELS = 4
ACCEPT, CHECK = 0.85, 0.70  # estimated Dice from which a case needs a glance, or a check


@dataclass(frozen=True)
class Segmentation:
    """A student's answer in the scan's own grid.

    Attributes:
        label: `(I, J, K)` uint8, 0...N.
        uncertainty: `(I, J, K)` float32 in [0, 1], normalized entropy.
        disagreement: `(I, J, K)` float32 in [0, 1], of the four heads.
        confidence: Soft Dice Confidence a foreground label; NaN for an absent one.
        grid: the scan's grid.
    """

    label: Array
    uncertainty: Array
    disagreement: Array
    confidence: dict[str, float]
    grid: Grid


def segment(
    student: nn.Module,
    scan: Volume,
    *,
    space: Space,
    modality: str,
    window: Shape,
    labels: Mapping[str, int],
    device: torch.device,
) -> Segmentation:
    """Segment a scan: one sliding-window pass gives everything.

    Args:
        student: the student, in evaluation mode, on `device`.
        scan: the scan as read.
        space: the model's space.
        modality: the model's intensity normalization.
        window: the model's window.
        labels: name to value.
        device: where the student computes.
    """
    prepared = prepare(scan, space, modality)
    prediction = predict(student, prepared.image, window, device=device)
    label = label_in_scan(prediction.probs, prepared.frame)
    confidence = soft_dice_confidence(prediction.probs, prediction.probs.argmax(dim=0))
    uncertainty, disagreement = _maps_in_scan(prediction, prepared.frame)
    named = {name: float(confidence[value - 1]) for name, value in labels.items()}
    return Segmentation(label, uncertainty, disagreement, named, scan.grid)


def label_in_scan(probs: Tensor, frame: Frame) -> Array:
    """Return the most probable class of every scan voxel, `(I, J, K)` uint8.

    Classes are brought back one at a time, so that memory holds two volumes of the scan's size
    and not one a class.

    Args:
        probs: `(C, I', J', K')` in the working frame.
        frame: the way back.
    """
    best = frame.to_scan(probs[:1])[0]
    label = torch.zeros(best.shape, dtype=torch.uint8)
    for index in range(1, probs.shape[0]):
        candidate = frame.to_scan(probs[index : index + 1])[0]
        better = candidate > best
        label[better] = index
        best = torch.where(better, candidate, best)
    return label.numpy()


def bands(uncertainty: Array) -> Array:
    """Return review bands, uint8: 1 `review_high`, 2 `review_medium`, 0 elsewhere."""
    result = np.zeros(uncertainty.shape, dtype=np.uint8)
    result[uncertainty >= BAND_MEDIUM] = 2
    result[uncertainty >= BAND_HIGH] = 1
    return result


def overlay(label: Array, uncertainty: Array, count: int) -> Array:
    """Return anatomy 1...N with the bands on top, N + 1 and N + 2."""
    review = bands(uncertainty)
    return np.where(review > 0, count + review, label).astype(np.uint8)


def summary(result: Segmentation, labels: Mapping[str, int], *, version: int) -> dict[str, Any]:
    """Return the object `uncol` of an answer's `params`."""
    foreground = result.label > 0
    unsure = result.uncertainty >= BAND_HIGH
    known = [value for value in result.confidence.values() if not np.isnan(value)]
    estimate = float(np.mean(known)) if known else 0.0
    lower = _pessimistic(foreground, unsure)
    return {
        "model_version": version,
        "quality": {
            "dice": estimate,
            "interval": [min(lower, estimate), estimate],
            "calibrated": False,
            "band": "accept" if estimate >= ACCEPT else "check" if estimate >= CHECK else "redo",
            "per_label": {k: (None if np.isnan(v) else v) for k, v in result.confidence.items()},
        },
        "uncertainty": {
            "mean_foreground": float(result.uncertainty[foreground].mean()) if known else 0.0,
            "voxels_high": int(unsure.sum()),
            "threshold": BAND_HIGH,
        },
        "rois": rois(result, labels),
    }


def rois(result: Segmentation, labels: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return up to five places worth a look, most uncertain first, none overlapping.

    A place is a connected region of high uncertainty; its score is the summed uncertainty.
    """
    parts, _ = ndimage.label(result.uncertainty >= BAND_HIGH)
    boxes = ndimage.find_objects(parts)
    found = []
    for number, box in enumerate(boxes, start=1):
        inside = parts[box] == number
        if inside.sum() >= MIN_ROI_VOXELS:
            found.append((float(result.uncertainty[box][inside].sum()), box, inside))
    found.sort(key=lambda entry: -entry[0])
    names = {value: name for name, value in labels.items()}
    chosen: list[dict[str, Any]] = []
    taken: list[tuple[slice, ...]] = []
    for score, box, inside in found:
        if len(chosen) == MAX_ROIS:
            break
        if any(_overlap(box, other) for other in taken):
            continue
        taken.append(box)
        values = result.label[box][inside]
        values = values[values > 0]
        nearest = int(np.bincount(values).argmax()) if len(values) else 1
        slices = inside.sum(axis=(0, 1))
        center, size = _box_mm(box, result.grid)
        chosen.append(
            {
                "center_mm": center,
                "size_mm": size,
                "slice": int(box[2].start + slices.argmax()),
                "label": names[nearest],
                "score": score,
            }
        )
    return chosen


def _maps_in_scan(prediction: Prediction, frame: Frame) -> tuple[Array, Array]:
    maps = torch.stack([prediction.entropy, prediction.disagreement])
    restored = frame.to_scan(maps).clamp(0.0, 1.0).float().numpy()
    return restored[0], restored[1]


def _pessimistic(foreground: Array, unsure: Array) -> float:
    """Return the foreground's Dice if every voxel of high uncertainty is wrong."""
    right = int((foreground & ~unsure).sum())
    total = int(foreground.sum()) + right + int((unsure & ~foreground).sum())
    return 2 * right / total if total else 0.0


def _overlap(first: tuple[slice, ...], second: tuple[slice, ...]) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(first, second, strict=True))


def _box_mm(box: tuple[slice, ...], grid: Grid) -> tuple[list[float], list[float]]:
    """Return centre and size in LPS mm of the box around a box of voxels."""
    edges = [(part.start - 0.5, part.stop - 0.5) for part in box]
    corners = np.array([[i, j, k, 1.0] for i in edges[0] for j in edges[1] for k in edges[2]])
    lps = corners @ (LPS_TO_RAS @ grid.affine).T
    low, high = lps[:, :3].min(axis=0), lps[:, :3].max(axis=0)
    return ((low + high) / 2).tolist(), (high - low).tolist()
