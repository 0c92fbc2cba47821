import nibabel as nib
import numpy as np
import pytest

from uncol.datastores.folder import StudiesFolder
from uncol.errors import RequestError
from uncol.tasks.requests import ScoringRequest
from uncol.tasks.scoring import DiceScoring

LABELS = {"a": 1}


@pytest.fixture
def store(tmp_path):
    for name in ("one", "two", "three"):
        scan = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
        nib.save(nib.Nifti1Image(scan, np.eye(4)), tmp_path / f"{name}.nii.gz")
    label = np.zeros((6, 5, 4), np.uint8)
    label[1:3] = 1
    for tag in ("final", "original"):
        folder = tmp_path / "labels" / tag
        folder.mkdir(parents=True)
        for name in ("one", "two"):
            nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"{name}.nii.gz")
    (tmp_path / "labels" / "original" / "two.nii.gz").write_bytes(b"damaged")
    return StudiesFolder(str(tmp_path), labels=LABELS)


def test_a_damaged_label_does_not_hold_up_the_others(store) -> None:
    told = DiceScoring(LABELS)(ScoringRequest(), store)
    assert told["one"]["dice"] == 1.0
    assert "damaged" in told["two"]["error"]
    assert "three" not in told


@pytest.mark.parametrize(("y", "y_pred"), [("final", "final"), ("../x", "final"), ("final", "")])
def test_odd_tags_are_refused(store, y, y_pred) -> None:
    with pytest.raises(RequestError):
        DiceScoring(LABELS)(ScoringRequest(y=y, y_pred=y_pred), store)
