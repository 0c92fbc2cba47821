"""Between a scan and a generalist's square or cubic views.

A 2D generalist sees slices of a 3D scan; a 3D one sees the whole scan as one cube. Views keep the
scan's proportions in mm and are padded at their far ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uncol.types import Array


@dataclass(frozen=True)
class Letterbox:
    """Fits a region of voxels into a view of equal sides.

    Attributes:
        shape: voxels of the region, one number per axis.
        spacing_mm: voxel size along these axes.
        side: the view's side in pixels.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    side: int

    @property
    def factors(self) -> Array:
        """Pixels per voxel along each axis."""
        spacing = np.array(self.spacing_mm)
        return np.asarray(spacing * self.side / (np.array(self.shape) * spacing).max())

    @property
    def extent(self) -> Array:
        """Voxels that the padded view covers along each axis."""
        return np.asarray(self.side / self.factors)

    @property
    def inner(self) -> tuple[int, ...]:
        """Pixels that the region takes along each axis."""
        sizes = np.rint(np.array(self.shape) * self.factors).astype(int)
        return tuple(int(size) for size in np.clip(sizes, 1, self.side))

    def shrink(self, images: Tensor) -> Tensor:
        """Bring `(n, *shape)` to views `(n, 1, *[side] * dims)`, padded with the minimum."""
        linear = "bilinear" if len(self.shape) == 2 else "trilinear"
        scaled = F.interpolate(images[:, None].float(), self.inner, mode=linear)
        pads = [p for size in reversed(self.inner) for p in (0, self.side - size)]
        low = scaled.flatten(1).amin(dim=1)
        padded = [F.pad(view, pads, value=float(v)) for view, v in zip(scaled, low, strict=True)]
        return torch.stack(padded)

    def grow(self, views: Tensor) -> Tensor:
        """Bring maps over views `(n, *low)`, any resolution, back to `(n, *shape)`."""
        linear = "bilinear" if len(self.shape) == 2 else "trilinear"
        full = (self.side,) * len(self.shape)
        large = F.interpolate(views[:, None].float(), full, mode=linear)
        inner = large[(slice(None), slice(None), *(slice(0, size) for size in self.inner))]
        return F.interpolate(inner, self.shape, mode=linear)[:, 0]

    def boxes_to_view(self, boxes: Tensor) -> Tensor:
        """Bring boxes in voxel edges `(n, 2 * dims)` to view pixels."""
        factors = torch.tensor(np.tile(self.factors, 2), dtype=torch.float32)
        return boxes.float() * factors

    def clicks_to_view(self, clicks: Tensor) -> Tensor:
        """Bring voxel indices `(..., dims)` to view pixels (centres)."""
        factors = torch.tensor(self.factors, dtype=torch.float32)
        return (clicks.float() + 0.5) * factors - 0.5


def letterbox_of(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    axis: int | None,
    side: int,
) -> Letterbox:
    """Return the letterbox of slices along an axis of a scan; of the whole scan for no axis."""
    if axis is None:
        return Letterbox(shape, spacing_mm, side)
    plane = plane_axes(axis)
    return Letterbox(tuple(shape[a] for a in plane), tuple(spacing_mm[a] for a in plane), side)


def even_slices(count: int, wanted: int) -> list[int]:
    """Return `wanted` slice indices at the centres of equal parts of `count` slices.

    Tripling `wanted` keeps all earlier indices, so what was computed in one round serves the next.
    """
    wanted = min(wanted, count)
    return sorted({int((part + 0.5) * count / wanted) for part in range(wanted)})


def plane_axes(axis: int) -> tuple[int, int]:
    """Return the two in-plane axes of slices along `axis`, in order."""
    first, second = (a for a in range(3) if a != axis)
    return first, second


def slices_along(volume: Tensor, axis: int, indices: list[int]) -> Tensor:
    """Return slices `(n, p, q)` of `(I, J, K)`."""
    return volume.movedim(axis, 0)[indices]
