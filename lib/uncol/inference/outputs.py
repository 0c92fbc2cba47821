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
from uncol.data.masks import extent
from uncol.data.preprocess import prepare
from uncol.data.scan import Grid, Volume
from uncol.inference.one_piece import Structures, keep_one_piece_
from uncol.inference.places import find_places
from uncol.inference.predict import Shape, predict
from uncol.types import Array
from uncol.uncertainty.calibration import Calibration
from uncol.uncertainty.maps import entropy, most_probable, soft_dice_confidence, temper_
from uncol.uncertainty.quality import QualityModel, verdict

RIM = 2  # voxels on both sides of a label's surface in which its uncertainty is averaged


@dataclass(frozen=True)
class SegmentSettings:
    """How a student's answer about a scan is made.

    Attributes:
        space: the model's space.
        modality: the model's intensity normalization.
        window: the model's window in working voxels.
        labels: name to value.
        one_piece: label values of which only the largest piece counts, see `one_piece.py`.
    """

    space: Space
    modality: str
    window: Shape
    labels: Mapping[str, int]
    one_piece: Structures = ()


@dataclass(frozen=True)
class LabelFound:
    """What a student says about one label of a scan.

    Attributes:
        confidence: Soft Dice Confidence of the probabilities as predicted; NaN if not found.
        uncertainty: mean uncertainty around the label's surface, in [0, 1]; 0 if not found.
        voxels: its size in the scan.
    """

    confidence: float
    uncertainty: float
    voxels: int


@dataclass(frozen=True)
class Segmentation:
    """A student's answer in the scan's own grid.

    Attributes:
        label: `(I, J, K)` uint8, 0...N.
        uncertainty: `(I, J, K)` float32 in [0, 1], normalized entropy after calibration.
        disagreement: `(I, J, K)` float32 in [0, 1], of the four heads.
        found: what it says about each label, by name.
        grid: the scan's grid.
        computed_on: type of the device that computed it.
    """

    label: Array
    uncertainty: Array
    disagreement: Array
    found: dict[str, LabelFound]
    grid: Grid
    computed_on: str


@torch.inference_mode()
def segment(
    student: nn.Module,
    scan: Volume,
    how: SegmentSettings,
    *,
    device: torch.device,
    calibration: Calibration,
) -> Segmentation:
    """Segment a scan: one sliding-window pass gives everything.

    Args:
        student: the student, in evaluation mode, on `device`.
        scan: the scan as read.
        how: how it was trained to be asked.
        device: where the student computes.
        calibration: how far its probabilities can be believed.
    """
    labels = how.labels
    prepared = prepare(scan, how.space, how.modality)
    prediction = predict(student, prepared.image, how.window, device=device)
    probs, frame = prediction.probs, prepared.frame
    working = most_probable(probs)
    keep_one_piece_(probs, working, how.one_piece)
    confidence = soft_dice_confidence(probs, working)
    label = label_in_scan(probs, frame)  # as predicted: calibration never moves a boundary
    temper_(probs, working, calibration.temperatures_for(len(labels) + 1))
    unsure = entropy(probs, dim=0)
    around = {name: _around(unsure.numpy(), working.numpy() == v) for name, v in labels.items()}
    sizes = np.bincount(label.ravel(), minlength=len(labels) + 1)
    return Segmentation(
        label,
        _map_in_scan(unsure, frame),
        _map_in_scan(prediction.disagreement, frame),
        {
            name: LabelFound(float(confidence[value - 1]), around[name], int(sizes[value]))
            for name, value in labels.items()
        },
        scan.grid,
        prediction.computed_on,
    )


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


def bands(uncertainty: Array, calibration: Calibration) -> Array:
    """Return review bands, uint8: 1 `review_high`, 2 `review_medium`, 0 elsewhere."""
    result = np.zeros(uncertainty.shape, dtype=np.uint8)
    result[uncertainty >= calibration.medium.threshold] = 2
    result[uncertainty >= calibration.high.threshold] = 1
    return result


def overlay(label: Array, uncertainty: Array, count: int, calibration: Calibration) -> Array:
    """Return anatomy 1...N with the bands on top, N + 1 and N + 2."""
    review = bands(uncertainty, calibration)
    return np.where(review > 0, count + review, label).astype(np.uint8)


def summary(
    result: Segmentation, labels: Mapping[str, int], calibration: Calibration, *, version: int
) -> dict[str, Any]:
    """Return the object `uncol` of an answer's `params`."""
    foreground = result.label > 0
    unsure = result.uncertainty >= calibration.high.threshold
    inside = result.uncertainty[foreground]
    places = find_places(
        result.label, calibration.expected_error(result.uncertainty), result.grid, labels
    )
    return {
        "model_version": version,
        "computed_on": result.computed_on,
        "quality": _quality(result.found, calibration.quality),
        "uncertainty": {
            "mean_foreground": float(inside.mean()) if inside.size else 0.0,
            "voxels_high": int(unsure.sum()),
            "threshold": calibration.high.threshold,
            "bands": {
                "review_high": calibration.high.model_dump(),
                "review_medium": calibration.medium.model_dump(),
            },
            "calibration": {"source": calibration.source, "cases": calibration.cases},
        },
        "rois": [place.as_reply(result.grid) for place in places],
    }


def _quality(found: Mapping[str, LabelFound], model: QualityModel | None) -> dict[str, Any]:
    known = {n: one.confidence for n, one in found.items() if not np.isnan(one.confidence)}
    mean = float(np.mean(list(known.values()))) if known else 0.0
    estimate, interval = mean, (0.0, 1.0)
    lines = {} if model is None else model.labels
    if model is not None and known:
        # a label that other cases have and this mask lacks has a Dice of 0, or is truly absent
        missed = sum(name not in known for name in lines)
        share = len(known) / (len(known) + missed)
        low, high = model.mean.interval(mean)
        estimate, interval = share * model.mean.estimate(mean), (share * low, high)
    band = verdict(estimate)
    if model is None and band == "accept":
        band = "check"  # nobody has seen yet how far this estimate can be believed
    return {
        "dice": estimate,
        "interval": list(interval),
        "calibrated": model is not None,
        "band": band,
        "observed": None if model is None else model.observed[band].model_dump(),
        "per_label": {
            name: (lines[name].estimate(known[name]) if name in lines else known[name])
            if name in known
            else None
            for name in found
        },
    }


def _map_in_scan(values: Tensor, frame: Frame) -> Array:
    restored: Array = frame.to_scan(values[None])[0].clamp(0.0, 1.0).float().numpy()
    return restored


def _around(uncertainty: Array, mask: Array) -> float:
    """Return the mean uncertainty within two voxels of a label's surface; 0 without a voxel."""
    region = extent(mask, margin=RIM)
    if region is None:
        return 0.0
    inside = mask[region]
    grown = ndimage.binary_dilation(inside, iterations=RIM)
    rim = grown & ~ndimage.binary_erosion(inside, iterations=RIM, border_value=1)
    return float(uncertainty[region][rim].mean())
