"""The one rule for when a scan is a stack of thick slices. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uncol.types import Array

THICK = 2.0  # slices this many times thicker than the pixels make a stack


def thick_axis(
    spacing_mm: Sequence[float] | Array, shape: Sequence[int] | None = None
) -> int | None:
    """Return the axis across the slices of a stack; None if voxels are about as long as wide.

    Args:
        spacing_mm: voxel size along I, J, K; infinite for an axis of a single voxel.
        shape: voxels along these axes; an axis of a single voxel is returned at once.
    """
    if shape is not None and 1 in shape:
        return list(shape).index(1)
    *_, second, longest = np.argsort(spacing_mm)
    return int(longest) if spacing_mm[longest] >= THICK * spacing_mm[second] else None
