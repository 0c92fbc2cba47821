"""Cases of a pool that a tiny student learns in seconds: noisy scans with a ball in them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from uncol.data.cases import Case
from uncol.types import Array

SHAPE = (24, 24, 16)


def ball_case(
    folder: Path,
    number: int,
    *,
    annotated: bool = True,
    shown: int | None = None,
    moved: int = 0,
    spacing: float = 1.0,
) -> Case:
    """Write a scan and its label.

    Args:
        folder: where to.
        number: decides name, place of the ball and noise.
        annotated: whether the case has the label.
        shown: number of the case whose scan it is, if not its own.
        moved: voxels by which the label is wrong.
        spacing: voxel size in mm.
    """
    name = f"c{number:02d}"
    noisy = scan(number if shown is None else shown)
    drawn = np.roll(ball(number), moved, axis=0)
    image = write(folder / f"{name}.nii.gz", noisy, spacing=spacing)
    label = write(folder / f"{name}_label.nii.gz", drawn, spacing=spacing)
    return Case(name, image, label if annotated else None)


def ball(number: int) -> Array:
    """Return the label."""
    axes = np.indices(SHAPE) - np.array([9 + number % 5, 10, 8])[:, None, None, None]
    return ((axes**2).sum(axis=0) < 25).astype(np.uint8)


def scan(number: int) -> Array:
    """Return the scan, bright in the ball."""
    noise = np.random.default_rng(number).normal(size=SHAPE)
    return (ball(number) * 4 + noise).astype(np.float32)


def write(path: Path, array: Array, *, spacing: float = 1.0) -> Path:
    """Write a volume and return its path."""
    nib.save(nib.Nifti1Image(array, np.diag([spacing, spacing, spacing, 1])), path)
    return path
