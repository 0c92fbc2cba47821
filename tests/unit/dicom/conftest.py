"""Series on disk: made ones, and real ones where they are there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from uncol.data.grid import Grid
from uncol.demo.series import write_series
from uncol.dicom.series import read_series
from uncol.settings import REPOSITORY

REAL = REPOSITORY.parent / "shared" / "data" / "dicom"
REAL_SERIES = ["mr_prostate_axial", "mr_prostate_axial_2", "mr_prostate_sagittal", "ct_abdomen"]


@pytest.fixture(scope="session")
def as_series(tmp_path_factory):
    """Writes an `(I, J, K)` array as DICOM and reads it back."""

    def make(array, grid):
        folder = tmp_path_factory.mktemp("series")
        write_series(folder, array, grid, number=1)
        return read_series(folder, case="it")

    return make


@pytest.fixture(params=["oblique", *REAL_SERIES])
def scan_and_series(request, as_series):
    """A volume and its series: a made one everywhere, real ones where they are there."""
    if request.param == "oblique":
        affine = np.eye(4)
        turn = Rotation.from_euler("xyz", (12, -30, 5), degrees=True).as_matrix()
        affine[:3, :3] = turn @ np.diag([-0.5, -0.7, 3.0])
        affine[:3, 3] = (31, -12, 7)
        values = np.arange(12 * 10 * 7).reshape(12, 10, 7)
        return as_series(values, Grid(values.shape, affine))
    folder = REAL / request.param
    if not folder.is_dir():
        pytest.skip(f"The real scans are not here: {folder}")
    return read_series(folder, case=request.param)
