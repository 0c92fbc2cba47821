"""The few places of a scan that are worth a look (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from uncol.data.boxes import PlaceMm
from uncol.data.grid import Grid
from uncol.data.masks import box_mm, extent
from uncol.types import Array

MOST_PLACES, FEWEST_PLACES = 5, 3
EDGE = 0.35  # of the predicted foreground's longest side: a box that a person takes in at a glance
WORTH = 0.1  # beyond three, a place must hold this share of the first one's expected errors
LEAST_ERROR = 0.05  # voxels that are less likely to be wrong make no place
LEAST_EXPECTED_ERRORS = 0.5  # expected wrong voxels below which there is nothing to look at


@dataclass(frozen=True)
class Place:
    """A box worth a look.

    Attributes:
        box: voxel ranges along I, J, K.
        slice: the slice along K with the most expected errors.
        label: name of the label most of them concern.
        errors: expected number of wrong voxels inside.
    """

    box: tuple[slice, slice, slice]
    slice: int
    label: str
    errors: float

    def in_mm(self, grid: Grid) -> PlaceMm:
        """Return it as clients get it."""
        center, size = box_mm(self.box, grid)
        return PlaceMm(
            center_mm=center, size_mm=size, slice=self.slice, label=self.label, score=self.errors
        )


def find_places(label: Array, error: Array, grid: Grid, labels: Mapping[str, int]) -> list[Place]:
    """Return three to five places, most expected errors first, none overlapping.

    Fewer only where less than half a wrong voxel is expected elsewhere.

    Args:
        label: `(I, J, K)` predicted values.
        error: `(I, J, K)` expected share of wrong voxels, in [0, 1].
        grid: the scan's grid.
        labels: name to value.
    """
    region = extent(error >= LEAST_ERROR)
    if region is None:
        return []
    half = _half_box(label, grid)
    density = ndimage.uniform_filter(
        error[region].astype(np.float32), 2 * half + 1, mode="constant"
    )
    density *= float(np.prod(2 * half + 1))
    places: list[Place] = []
    while len(places) < MOST_PLACES:
        peak = np.array(np.unravel_index(int(density.argmax()), density.shape))
        worth = float(density[tuple(peak)])
        if worth < LEAST_EXPECTED_ERRORS:
            break
        if len(places) >= FEWEST_PLACES and worth < WORTH * places[0].errors:
            break
        center = peak + [part.start for part in region]
        places.append(_place(center, half, label, error, labels))
        low = np.maximum(peak - 2 * half, 0)
        density[tuple(slice(a, b) for a, b in zip(low, peak + 2 * half + 1, strict=True))] = -1
    return places


def _place(
    center: Array, half: Array, label: Array, error: Array, labels: Mapping[str, int]
) -> Place:
    low, high = np.maximum(center - half, 0), np.minimum(center + half + 1, label.shape)
    rows, columns, slices = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    box = (rows, columns, slices)
    weights = np.bincount(label[box].ravel(), error[box].ravel(), minlength=len(labels) + 1)[1:]
    names = {value: name for name, value in labels.items()}
    by_slice = error[box].sum(axis=(0, 1))
    return Place(
        box,
        slices.start + int(by_slice.argmax()),
        names[1 + int(weights[: len(labels)].argmax())],
        float(by_slice.sum()),
    )


def _half_box(label: Array, grid: Grid) -> Array:
    """Return half the box's side in voxels along each axis; 0 for a flat axis."""
    region = extent(label > 0)
    sides = label.shape if region is None else [part.stop - part.start for part in region]
    spacing = np.array(grid.spacing_mm)
    edge_mm = EDGE * float((np.array(sides) * spacing).max())
    half = np.maximum(1, np.rint(edge_mm / spacing / 2)).astype(int)
    return np.minimum(half, (np.array(label.shape) - 1) // 2)
