"""A studies folder of two scans, and a label that fits them."""

import numpy as np
import pytest
from studies_folder import open_folder, write


@pytest.fixture
def store(tmp_path):
    studies = tmp_path / "studies"
    studies.mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        write(studies / f"{name}.nii.gz", rng.normal(size=(6, 5, 4)).astype(np.float32))
    return open_folder(studies)


@pytest.fixture
def label(tmp_path):
    array = np.zeros((6, 5, 4), dtype=np.uint8)
    array[1:3], array[3:5] = 1, 2
    return write(tmp_path / "label.nii.gz", array)
