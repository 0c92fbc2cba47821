"""Multi-frame results (segmentations, parametric maps) back on a scan's grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from uncol.data.grid import LPS_TO_RAS, Grid, Volume, resample_nearest
from uncol.data.imagefile import MAX_VOXELS
from uncol.errors import LabelError
from uncol.types import Array

MOST_SLICES = 10_000
CLOSE = 0.1  # voxels by which a frame may miss the scan's grid and still lie on it


def on_grid(dataset: Dataset, frames: Array, chosen: Sequence[int], grid: Grid) -> Array:
    """Return frames of a multi-frame image as a volume in a scan's grid.

    Frames that lie on the scan's voxels are copied; others are resampled to the nearest voxel.

    Args:
        dataset: the multi-frame image, for the positions of its frames.
        frames: `(F, rows, columns)`.
        chosen: the numbers of the frames that belong together.
        grid: the scan's grid.

    Returns:
        `(I, J, K)`, 0 where there is no frame.

    Raises:
        LabelError: the frames have no position in the patient.
    """
    affines = [_affine(dataset, number) for number in chosen]
    if not all(np.isfinite(affine).all() for affine in affines):
        raise LabelError("A frame's position is not a number.")
    offsets = np.array([_offset(affine, grid) for affine in affines])
    if np.isnan(offsets).any():
        return _resampled(frames[chosen], affines, grid)
    result = np.zeros(grid.shape, dtype=frames.dtype)
    for number, (i, j, k) in zip(chosen, offsets.astype(int), strict=True):
        part = frames[number].T
        low = np.maximum([i, j], 0)
        high = np.minimum([i + part.shape[0], j + part.shape[1]], grid.shape[:2])
        if 0 <= k < grid.shape[2] and (high > low).all():
            result[low[0] : high[0], low[1] : high[1], k] = part[
                low[0] - i : high[0] - i, low[1] - j : high[1] - j
            ]
    return result


def _affine(dataset: Dataset, number: int) -> Array:
    """Return a frame's `(column, row, along its normal)` to RAS mm."""
    groups = (
        dataset.PerFrameFunctionalGroupsSequence[number],
        dataset.SharedFunctionalGroupsSequence[0],
    )
    direction = np.array(
        _group(groups, "PlaneOrientationSequence").ImageOrientationPatient, dtype=float
    )
    measures = _group(groups, "PixelMeasuresSequence")
    down, right = (float(size) for size in measures.PixelSpacing)
    thick = float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1.0)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = direction[:3] * right, direction[3:] * down
    lps[:3, 2] = np.cross(direction[:3], direction[3:]) * thick
    lps[:3, 3] = _group(groups, "PlanePositionSequence").ImagePositionPatient
    return LPS_TO_RAS @ lps


def _group(groups: Sequence[Dataset], name: str) -> Dataset:
    for group in groups:
        if name in group:
            macro: Dataset = group[name].value[0]
            return macro
    raise LabelError(f"{name} is missing, so its position in the patient is unknown.")


def _offset(affine: Array, grid: Grid) -> Array:
    """Return the scan voxel of a frame's first pixel; NaN if the frame is not on the voxels."""
    to_voxel = np.linalg.inv(grid.affine) @ affine
    place = np.rint(to_voxel[:3, 3])
    turned = np.abs(to_voxel[:3, :2] - np.eye(3)[:, :2]) * np.array(grid.shape[:2])
    aside = np.abs(to_voxel[:3, 3] - place)
    return place if max(turned.max(), aside.max()) <= CLOSE else np.full(3, np.nan)


def _resampled(frames: Array, affines: Sequence[Array], grid: Grid) -> Array:
    first = affines[0]
    to_first = np.linalg.inv(first)
    heights = np.array([(to_first @ affine[:, 3])[2] for affine in affines])  # in thicknesses
    if np.ptp(heights) > MOST_SLICES:
        raise LabelError("Its frames lie too far apart to belong to one scan.")
    step = np.diff(np.unique(heights.round(3))).min(initial=1.0)
    slices = np.rint((heights - heights.min()) / step).astype(int)
    depth = int(slices.max()) + 1
    if depth > MOST_SLICES or depth * frames[0].size > MAX_VOXELS:
        raise LabelError("Its frames lie too far apart to belong to one scan.")
    own = first.copy()
    own[:, 2] = first[:, 2] * step
    own[:, 3] = affines[int(heights.argmin())][:, 3]
    count, rows, columns = frames.shape
    volume = np.zeros((columns, rows, depth), dtype=frames.dtype)
    for number in range(count):
        volume[..., slices[number]] = frames[number].T
    sizes = (columns, rows, volume.shape[2])
    return resample_nearest(Volume(volume, Grid(sizes, own)), grid)
