"""Which scan it is: its voxels and where they lie, whatever its file is called."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from uncol.data.grid import Grid, Volume
from uncol.data.scan import read_scan


class ScanIdentity(BaseModel):
    """A scan's content.

    Attributes:
        voxels: SHA-256 of its values as float32, in file order.
        shape: `(I, J, K)` voxels.
        affine: the first three rows of the affine from voxel index to millimetres in RAS+.
    """

    model_config = ConfigDict(frozen=True)

    voxels: str
    shape: tuple[int, int, int]
    affine: tuple[float, ...]

    @property
    def grid(self) -> Grid:
        """Where its voxels lie."""
        return Grid(self.shape, np.vstack([np.reshape(self.affine, (3, 4)), [0, 0, 0, 1]]))

    def same_as(self, other: ScanIdentity) -> bool:
        """Return whether it is the same scan, perhaps in another format."""
        return self.voxels == other.voxels and self.grid.matches(other.grid)


def identity_of(volume: Volume) -> ScanIdentity:
    """Return the identity of a scan that `read_scan` returned."""
    values = np.ascontiguousarray(volume.array, dtype=np.float32) + np.float32(0)  # -0 is 0
    voxels = hashlib.sha256(values.data).hexdigest()
    grid = volume.grid
    return ScanIdentity(
        voxels=voxels, shape=grid.shape, affine=tuple(grid.affine[:3].ravel().tolist())
    )


def identify(path: Path, case: str) -> ScanIdentity:
    """Read a scan and return its identity.

    Raises:
        ScanError: it cannot be used.
    """
    return identity_of(read_scan(path, case=case))
