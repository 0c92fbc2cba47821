"""The working frame: one axis order and one voxel size for every scan of a model.

A frame only permutes, flips and zooms, so it never mixes oblique axes, needs no sampling grid in
memory, and its way back gives the scan's own grid exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel.orientations as nio
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uncol.data.grid import Grid
from uncol.data.stack import thick_axis
from uncol.types import Array

FLAT_MM = 1.0  # assumed slice thickness of a single-slice image


@dataclass(frozen=True)
class Space:
    """The axes and voxel size that all scans of one model are brought to.

    Attributes:
        axcodes: nibabel axis codes of the working axes, e.g. `RAS`; the slice axis is last.
        spacing_mm: working voxel size along these axes.
    """

    axcodes: str
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Frame:
    """The mapping between one scan's grid and the working grid.

    Attributes:
        scan: the scan's grid.
        working: the working grid; same extent in mm, other axes and voxel size.
        order: working axis `a` is scan axis `order[a]`.
        flips: working axes that run against the scan's.
    """

    scan: Grid
    working: Grid
    order: tuple[int, int, int]
    flips: tuple[int, ...]

    def to_working(self, volume: Tensor, *, nearest: bool = False) -> Tensor:
        """Bring `(C, *scan.shape)` to `(C, *working.shape)`."""
        turned = volume.permute(0, *(axis + 1 for axis in self.order))
        turned = turned.flip([axis + 1 for axis in self.flips])
        return zoom(turned, self.working.shape, nearest=nearest)

    def to_scan(self, volume: Tensor, *, nearest: bool = False) -> Tensor:
        """Bring `(C, *working.shape)` back to `(C, *scan.shape)`."""
        size_i, size_j, size_k = (self.scan.shape[axis] for axis in self.order)
        turned = zoom(volume, (size_i, size_j, size_k), nearest=nearest)
        turned = turned.flip([axis + 1 for axis in self.flips])
        inverse = np.argsort(self.order)
        return turned.permute(0, *(int(axis) + 1 for axis in inverse)).contiguous()


def make_frame(grid: Grid, space: Space) -> Frame:
    """Return the frame that brings `grid` to the model's space."""
    have = nio.io_orientation(grid.affine)
    want = nio.axcodes2ornt(space.axcodes)
    turn = nio.ornt_transform(have, want)  # row a: scan axis a -> (working axis, sign)
    order = tuple(int(axis) for axis in np.argsort(turn[:, 0]))
    flips = tuple(working for working, axis in enumerate(order) if turn[axis, 1] < 0)
    turned_shape = np.array([grid.shape[axis] for axis in order])
    turned_affine = grid.affine @ nio.inv_ornt_aff(turn, grid.shape)
    spacing = np.array(grid.spacing_mm)[list(order)]
    target = np.array(space.spacing_mm)
    shape = np.maximum(1, np.rint(turned_shape * spacing / target)).astype(int)
    shape[turned_shape == 1] = 1
    step = turned_shape / shape
    zoomed = np.diag([*step, 1.0])
    zoomed[:3, 3] = (step - 1) / 2  # extents stay, so centres move by half the growth
    size_i, size_j, size_k = (int(size) for size in shape)
    affine = turned_affine @ zoomed
    sizes_mm = None
    if grid.sizes_mm is not None:
        sizes_i, sizes_j, sizes_k = (float(size) for size in spacing * step)
        sizes_mm = (sizes_i, sizes_j, sizes_k)
    working = Grid((size_i, size_j, size_k), affine, sizes_mm)
    return Frame(grid, working, (order[0], order[1], order[2]), flips)


def choose_space(grids: list[Grid]) -> Space:
    """Choose the space of a pool: canonical axes, slice axis last, median voxel size.

    Args:
        grids: grids of the pool's scans, at least one.
    """
    spacings = []
    for grid in grids:
        turn = nio.io_orientation(grid.affine)
        spacing = np.empty(3)
        spacing[turn[:, 0].astype(int)] = grid.spacing_mm
        flat = np.zeros(3, dtype=bool)
        flat[turn[:, 0].astype(int)] = np.array(grid.shape) == 1
        spacing[flat] = np.inf  # a single slice is the coarsest axis there can be
        spacings.append(spacing)
    median = np.median(np.array(spacings), axis=0)
    codes = ["R", "A", "S"]
    order = [0, 1, 2]
    thick = thick_axis(median)
    if thick is not None:
        order = [axis for axis in order if axis != thick] + [thick]
    finite = np.where(np.isfinite(median), median, FLAT_MM)
    spacing_i, spacing_j, spacing_k = (float(finite[axis]) for axis in order)
    return Space("".join(codes[axis] for axis in order), (spacing_i, spacing_j, spacing_k))


def zoom(volume: Tensor, shape: tuple[int, int, int], *, nearest: bool) -> Tensor:
    """Zoom `(C, I, J, K)` to a shape of the same extent.

    Linear along the axes that change (averaging where an axis shrinks), or nearest for labels.
    """
    if tuple(volume.shape[1:]) == shape:
        return volume
    if nearest:
        return F.interpolate(volume[None].float(), size=shape, mode="nearest-exact")[0].to(
            volume.dtype
        )
    result = volume.float()
    for axis, size in enumerate(shape):
        result = _zoom_axis(result, axis + 1, size)
    return result


def _zoom_axis(volume: Tensor, axis: int, size: int) -> Tensor:
    length = volume.shape[axis]
    if length == size:
        return volume
    moved = volume.movedim(axis, -1)
    flat = moved.reshape(1, -1, 1, length)
    # antialias averages only where the axis shrinks, so thin structures do not vanish
    scaled = F.interpolate(
        flat, size=(1, size), mode="bilinear", align_corners=False, antialias=size < length
    )
    return scaled.reshape(*moved.shape[:-1], size).movedim(-1, axis)


def as_tensor(array: Array) -> Tensor:
    """Return `(1, I, J, K)` from `(I, J, K)`, without a copy where possible."""
    return torch.from_numpy(np.ascontiguousarray(array))[None]
