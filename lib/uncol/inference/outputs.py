"""From a prediction to what a client gets: label, map, bands, quality and places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from uncol.data.frame import Frame, Space
from uncol.data.grid import Grid, Volume
from uncol.data.masks import extent
from uncol.data.preprocess import prepare
from uncol.inference.one_piece import Structures, keep_one_piece_
from uncol.inference.predict import predict
from uncol.types import Array, Shape
from uncol.uncertainty.calibration import Calibration
from uncol.uncertainty.maps import most_probable, soft_dice_confidence, temper_
from uncol.uncertainty.measure import voxel_uncertainty

RIM = 2  # voxels on both sides of a label's surface in which its uncertainty is averaged


@dataclass(frozen=True)
class SegmentSettings:
    """How a student segments a scan.

    Attributes:
        space: the model's space.
        modality: the model's intensity normalization.
        window: the model's window in working voxels.
        labels: name to value.
        one_piece: label values of which only one piece counts, see `one_piece.py`.
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
        by_label: what it says about each label, by name.
        grid: the scan's grid.
        computed_on: type of the device that computed it.
    """

    label: Array
    uncertainty: Array
    disagreement: Array
    by_label: dict[str, LabelFound]
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
        how: the settings it was trained with.
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
    unsure = voxel_uncertainty(probs)
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
    and not one per class.

    Args:
        probs: `(C, I', J', K')` in the working frame.
        frame: the way back.
    """
    return most_probable(frame.to_scan(one[None])[0] for one in probs).numpy()


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


def _map_in_scan(values: Tensor, frame: Frame) -> Array:
    restored: Array = frame.to_scan(values[None])[0].clamp(0.0, 1.0).float().numpy()
    return restored


def _around(uncertainty: Array, mask: Array) -> float:
    """Return the mean uncertainty within two voxels of a label's surface; 0 for an empty mask."""
    region = extent(mask, margin=RIM)
    if region is None:
        return 0.0
    inside = mask[region]
    grown = ndimage.binary_dilation(inside, iterations=RIM)
    rim = grown & ~ndimage.binary_erosion(inside, iterations=RIM, border_value=1)
    return float(uncertainty[region][rim].mean())
