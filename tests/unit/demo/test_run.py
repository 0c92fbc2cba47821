"""What the demo says about a folder that it cannot play with."""

import numpy as np
import pytest
from rich.console import Console

from uncol.data.grid import Grid
from uncol.data.scan import write_volume
from uncol.demo.bar import progress_bar
from uncol.demo.run import _source
from uncol.errors import RequestError

GRID = Grid((4, 4, 4), np.eye(4))


@pytest.fixture
def progress():
    return progress_bar(Console(quiet=True))


def _folder(root, count):
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
        for number in range(count):
            array = np.arange(64, dtype=np.float32).reshape(GRID.shape)
            write_volume(root / kind / f"case_{number:02d}.nii.gz", array, GRID)
    return root


def test_a_folder_of_ones_own_is_copied_without_its_labels(tmp_path, progress):
    folder = _folder(tmp_path / "mine", 20)
    (folder / "images" / "unlabeled.nii.gz").write_bytes(b"")
    (tmp_path / "out").mkdir()
    source = _source(folder, "a,b", tmp_path / "out", progress)
    assert len(list(source.studies.iterdir())) == 20
    assert source.truth == folder / "labels"


@pytest.mark.parametrize("labels", [None, "a"])
def test_folders_or_labels_are_missing(tmp_path, progress, labels):
    folder = tmp_path if labels else _folder(tmp_path / "mine", 1)
    with pytest.raises(RequestError, match="must hold the folders images/ and labels/"):
        _source(folder, labels, tmp_path, progress)


def test_too_few_scans(tmp_path, progress):
    folder = _folder(tmp_path / "mine", 2)
    (tmp_path / "out").mkdir()
    with pytest.raises(RequestError, match="has 2 labeled scans; the demo needs 18"):
        _source(folder, "a", tmp_path / "out", progress)
