"""Bool masks: their largest piece, the boxes around them, and how far two agree."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from uncol.data.grid import LPS_TO_RAS, Grid
from uncol.data.labels import IGNORE_VALUE
from uncol.types import Array


def largest_component(mask: Array, *, corners: bool = False) -> Array:
    """Return the largest component of a bool mask of any dimension.

    Args:
        mask: of any dimension.
        corners: whether sharing a corner connects voxels; else only sharing a face does.
    """
    structure = ndimage.generate_binary_structure(mask.ndim, mask.ndim if corners else 1)
    parts, count = ndimage.label(mask, structure=structure)
    if count <= 1:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def tight_box(mask: Array, *, margin: float = 0.0) -> Array | None:
    """Return the bounding box of a 2D mask, or None if it is empty.

    Args:
        mask: `(I, J)` bool.
        margin: voxels added on each side, clipped to the image.

    Returns:
        `(i_min, j_min, i_max, j_max)` in voxel-edge coordinates: a single voxel at (3, 5) gives
        (3, 5, 4, 6).
    """
    if not mask.any():
        return None
    low, high = [], []
    for axis in (0, 1):
        filled = np.flatnonzero(mask.any(axis=1 - axis))
        low.append(max(filled[0] - margin, 0))
        high.append(min(filled[-1] + 1 + margin, mask.shape[axis]))
    return np.array([*low, *high], dtype=np.float32)


def filled_box(mask: Array) -> Array:
    """Return the tight bounding box of a bool mask of any dimension, filled."""
    box = np.zeros_like(mask)
    for place in ndimage.find_objects(mask.astype(np.uint8)):
        box[place] = True
    return box


def box_mm(box: tuple[slice, ...], grid: Grid) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return centre and size in LPS mm of the axis-parallel box around a box of voxels."""
    edges = [(part.start - 0.5, part.stop - 0.5) for part in box]
    corners = np.array([[i, j, k, 1.0] for i in edges[0] for j in edges[1] for k in edges[2]])
    lps = corners @ (LPS_TO_RAS @ grid.affine).T
    low, high = lps[:, :3].min(axis=0), lps[:, :3].max(axis=0)
    return tuple(((low + high) / 2).tolist()), tuple((high - low).tolist())


def extent(mask: Array, *, margin: int = 0) -> tuple[slice, ...] | None:
    """Return the box around a mask, widened by a margin of voxels, or None if it is empty."""
    if not mask.any():
        return None
    parts = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        low, high = max(int(hit[0]) - margin, 0), int(hit[-1]) + 1 + margin
        parts.append(slice(low, min(high, mask.shape[axis])))
    return tuple(parts)


class PooledDice:
    """Dice per label over many scans or views together."""

    def __init__(self, classes: int) -> None:
        """Begin with none; background is a class, and has no Dice."""
        self._overlap, self._sizes = np.zeros((2, classes - 1))

    def add(self, label: Array, truth: Array) -> None:
        """Count a prediction and its annotation, class indices; 255 where it is not annotated."""
        known = truth != IGNORE_VALUE
        for value in range(1, len(self._overlap) + 1):
            self.add_masks(value, (label == value) & known, truth == value)

    def add_masks(self, value: int, predicted: Array, truth: Array) -> None:
        """Count a prediction and an annotation of one label, bool masks of the same shape."""
        self._overlap[value - 1] += (predicted & truth).sum()
        self._sizes[value - 1] += predicted.sum() + truth.sum()

    @property
    def values(self) -> tuple[float, ...]:
        """Dice per label; NaN for one that is nowhere."""
        with np.errstate(invalid="ignore"):
            return tuple((2 * self._overlap / self._sizes).tolist())
