"""Where a crop lies in its scan.

A crop is described by one affine map from crop voxels to scan voxels, so that image, label,
generalist probabilities and generalist features are all sampled by the same geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uncol.types import Array, Shape


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
        result is on the volume's device; for an array, on the CPU.
        """
        points = self.places(self.shape)
        flat = points.reshape(-1, 3)
        size = torch.tensor(volume.shape[1:], dtype=torch.float32)
        low = (flat.amin(dim=0).floor() - 1).clamp_min(0).minimum(size - 1)
        high = (flat.amax(dim=0).ceil() + 2).minimum(size).maximum(low + 1)
        part = volume[
            (slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
        ]
        held = part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
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
