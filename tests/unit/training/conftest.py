from collections.abc import Callable

import nibabel as nib
import numpy as np
import pytest

from uncol.data.cases import Case
from uncol.types import Array

SHAPE = (24, 24, 16)


def write(path, array, *, spacing=1.0):
    nib.save(nib.Nifti1Image(array, np.diag([spacing, spacing, spacing, 1])), path)
    return path


def ball(number) -> Array:
    axes = np.indices(SHAPE) - np.array([9 + number % 5, 10, 8])[:, None, None, None]
    return ((axes**2).sum(axis=0) < 25).astype(np.uint8)


def scan(number) -> Array:
    noise = np.random.default_rng(number).normal(size=SHAPE)
    return (ball(number) * 4 + noise).astype(np.float32)


@pytest.fixture
def ball_case(tmp_path) -> Callable[..., Case]:
    """Writes a scan of a ball, and its label."""

    def make(number, *, annotated=True, shown=None, moved=0, spacing=1.0):
        name = f"c{number:02d}"
        noisy = scan(number if shown is None else shown)
        drawn = np.roll(ball(number), moved, axis=0)
        image = write(tmp_path / f"{name}.nii.gz", noisy, spacing=spacing)
        label = write(tmp_path / f"{name}_label.nii.gz", drawn, spacing=spacing)
        return Case(name, image, label if annotated else None)

    return make
