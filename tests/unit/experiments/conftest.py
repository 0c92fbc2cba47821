import nibabel as nib
import numpy as np
import pytest

from uncol.experiments.pool import open_pool


@pytest.fixture
def ball_pool(tmp_path):
    """Nine scans of a box, labeled."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(9):
        rng = np.random.default_rng(number)
        label = np.zeros((16, 16, 16), dtype=np.uint8)
        label[4 : 8 + number % 3, 5:11, 4:12] = 1
        image = (2 * label + rng.normal(0, 0.5, label.shape)).astype(np.float32)
        for folder, array in (("images", image), ("labels", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / folder / f"c{number}.nii.gz")
    return open_pool(tmp_path, "ball")
