"""Where a crop lies in its scan, and what its intensities go through.

A crop is described by one affine map from crop voxels to scan voxels, so that image, label,
generalist probabilities and teacher features are all sampled by the same geometry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uncol.types import Array

ROTATION = math.radians(20)
SCALE = 0.2
SPATIAL_CHANCE = 0.7
INTENSITY_CHANCE = 0.5
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class CropMap:
    """From crop voxels to scan voxels: `scan = matrix @ crop + offset`, both counted from 0.

    Attributes:
        shape: crop size in voxels.
        matrix: `(3, 3)`.
        offset: `(3,)`.
    """

    shape: Shape
    matrix: Tensor
    offset: Tensor

    @classmethod
    def whole(cls, shape: Shape) -> CropMap:
        """Return the map of a scan onto itself."""
        return cls(shape, torch.eye(3), torch.zeros(3))

    def places(self, grid: Shape) -> Tensor:
        """Return scan coordinates `(*grid, 3)` of the centres of `grid` equal parts of the crop."""
        steps = [
            (torch.arange(n) + 0.5) * size / n - 0.5
            for n, size in zip(grid, self.shape, strict=True)
        ]
        points = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1)
        return points @ self.matrix.T + self.offset

    def upright(self) -> CropMap:
        """Return a crop around the same centre, neither turned nor scaled, on whole voxels."""
        half = (torch.tensor(self.shape, dtype=torch.float32) - 1) / 2
        middle = self.matrix @ half + self.offset
        return CropMap(self.shape, torch.eye(3), (middle - half).round())

    def within(self, other: CropMap) -> CropMap:
        """Return the map from this crop's voxels to those of another crop of the same scan."""
        back = torch.linalg.inv(other.matrix)
        return CropMap(self.shape, back @ self.matrix, back @ (self.offset - other.offset))

    def sample(self, volume: Array | Tensor, *, nearest: bool = False, fill: float = 0.0) -> Tensor:
        """Sample `(C, I, J, K)` on the crop's voxels, `fill` outside the scan.

        Only the part that the crop touches is read, so a memory-mapped volume stays on disk. The
        result lies on the device of a tensor, on the CPU for an array.
        """
        points = self.places(self.shape)
        flat = points.reshape(-1, 3)
        size = torch.tensor(volume.shape[1:], dtype=torch.float32)
        low = (flat.amin(dim=0).floor() - 1).clamp_min(0).minimum(size - 1)
        high = (flat.amax(dim=0).ceil() + 2).minimum(size).maximum(low + 1)
        part = volume[
            (slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
        ]
        held = part if isinstance(part, Tensor) else torch.as_tensor(np.ascontiguousarray(part))
        held = held.float()
        unit = (2 * (points - low) + 1) / (high - low) - 1  # to grid_sample's -1...1
        sampled = F.grid_sample(
            held[None] - fill,
            unit.flip(-1)[None].to(held.device),
            mode="nearest" if nearest else "bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        return sampled[0] + fill


def draw_crop(
    scan_shape: Shape, crop: Shape, *, center: Tensor | None, generator: torch.Generator
) -> CropMap:
    """Draw a crop, most often turned and scaled at random.

    Args:
        scan_shape: the scan's working shape.
        crop: the crop's shape. An axis of one voxel (2D) is neither turned nor scaled.
        center: scan voxel `(3,)` to lie in the middle, or None for any that keeps the crop inside.
        generator: source of randomness.
    """
    flat = crop[2] == 1
    matrix = torch.eye(3)
    if float(torch.rand((), generator=generator)) < SPATIAL_CHANCE:
        matrix = _turn(generator, flat=flat) @ torch.diag(_scales(generator, flat=flat))
    middle = _middle(scan_shape, crop, center, generator)
    half = (torch.tensor(crop, dtype=torch.float32) - 1) / 2
    return CropMap(crop, matrix, middle - matrix @ half)


def vary_intensity(image: Tensor, *, generator: torch.Generator) -> Tensor:
    """Vary contrast, brightness, gamma, bias field and noise of a normalized `(1, I, J, K)`."""

    def chance() -> bool:
        return float(torch.rand((), generator=generator)) < INTENSITY_CHANCE

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    if chance():
        image = image * between(0.75, 1.25) + between(-0.25, 0.25)
    if chance():
        low, high = image.min(), image.max()
        unit = (image - low) / (high - low).clamp_min(1e-6)
        image = unit ** between(0.7, 1.5) * (high - low) + low
    if chance():
        image = image * _smooth_field(image, between(0.0, 0.3), generator)
    if chance():
        image = image + between(0.0, 0.15) * torch.randn(image.shape, generator=generator)
    return image


def _middle(
    scan_shape: Shape, crop: Shape, center: Tensor | None, generator: torch.Generator
) -> Tensor:
    size = torch.tensor(scan_shape, dtype=torch.float32)
    half = torch.tensor(crop, dtype=torch.float32) / 2
    if center is not None:
        jitter = (torch.rand(3, generator=generator) - 0.5) * half
        center = center.float() + jitter.where(torch.tensor(crop) > 1, torch.zeros(3))
    else:
        center = torch.rand(3, generator=generator) * (size - 1)
        if crop[2] == 1:
            center[2] = center[2].round()
    low = torch.minimum(half - 0.5, (size - 1) / 2)
    high = torch.maximum(size - half - 0.5, (size - 1) / 2)
    return torch.minimum(torch.maximum(center, low), high)


def _turn(generator: torch.Generator, *, flat: bool) -> Tensor:
    angles = (2 * torch.rand(3, generator=generator) - 1) * ROTATION
    result = torch.eye(3)
    for axis in (2,) if flat else (0, 1, 2):
        first, second = (a for a in range(3) if a != axis)
        cosine, sine = torch.cos(angles[axis]), torch.sin(angles[axis])
        step = torch.eye(3)
        step[first, first] = step[second, second] = cosine
        step[first, second], step[second, first] = -sine, sine
        result = result @ step
    return result


def _scales(generator: torch.Generator, *, flat: bool) -> Tensor:
    scales = 1 + (2 * torch.rand(3, generator=generator) - 1) * SCALE
    if flat:
        scales[2] = 1.0
    return scales


def _smooth_field(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    coarse = torch.randn(1, 1, 3, 3, 3, generator=generator) * strength
    field = F.interpolate(coarse, image.shape[1:], mode="trilinear", align_corners=True)[0]
    return field.exp()
