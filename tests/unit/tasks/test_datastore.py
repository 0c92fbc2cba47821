import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from uncol.data.scan import read_label
from uncol.errors import LabelError, RequestError, ScanError, StorageError
from uncol.tasks import datastore as module
from uncol.tasks.datastore import UncolDatastore, case_of

LABELS = {"a": 1, "b": 2}
EXTENSIONS = ("*.nii.gz", "*.nii", "*.nrrd", "*.png")


def write(path, array):
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return str(path)


@pytest.fixture
def store(tmp_path):
    studies = tmp_path / "studies"
    studies.mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        write(studies / f"{name}.nii.gz", rng.normal(size=(6, 5, 4)).astype(np.float32))
    return UncolDatastore(str(studies), labels=LABELS, extensions=EXTENSIONS)


@pytest.fixture
def label(tmp_path):
    array = np.zeros((6, 5, 4), dtype=np.uint8)
    array[1:3], array[3:5] = 1, 2
    return write(tmp_path / "label.nii.gz", array)


def test_a_submitted_label_counts_at_once(store, label) -> None:
    store.save_label("one", label, "final", {})
    assert store.get_labeled_images() == ["one"]
    assert case_of(store, "one").segments == LABELS
    assert case_of(store, "two").label is None


def test_an_overwritten_label_in_another_format_replaces_the_first(store, label, tmp_path) -> None:
    store.save_label("one", label, "final", {})
    other = tmp_path / "label.nii"
    nib.save(nib.load(label), other)
    store.save_label("one", str(other), "final", {})
    assert store.get_label_uri("one", "final").endswith("one.nii")
    assert not os.path.exists(os.path.join(store._datastore.label_path("final"), "one.nii.gz"))


def test_a_full_disk_keeps_the_label_before(store, label, tmp_path, monkeypatch) -> None:
    store.save_label("one", label, "final", {})
    before = store.get_label_uri("one", "final")
    kept = Path(before).read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    changed = nib.load(label).get_fdata().astype(np.uint8)
    changed[0, 0, 0] = 1
    with pytest.raises(StorageError, match=r"'one'.*unchanged"):
        store.save_label("one", write(tmp_path / "new.nii.gz", changed), "final", {})
    assert Path(before).read_bytes() == kept
    assert [p.name for p in (tmp_path / "studies" / "labels" / "final").iterdir()] == ["one.nii.gz"]


@pytest.mark.parametrize("tag", ["../../evil", "a/b", "", ".hidden", "x" * 300, "a\\b"])
def test_a_tag_cannot_leave_the_folder(store, label, tag) -> None:
    with pytest.raises(RequestError, match="plain file name"):
        store.save_label("one", label, tag, {})


def test_an_unknown_case_is_named(store, label) -> None:
    with pytest.raises(RequestError, match="'three'"):
        store.save_label("three", label, "final", {})


def test_a_label_on_another_grid_is_refused(store, tmp_path) -> None:
    small = write(tmp_path / "small.nii.gz", np.ones((5, 5, 4), dtype=np.uint8))
    with pytest.raises(LabelError, match=r"'one' has 5x5x4 voxels.*6x5x4"):
        store.save_label("one", small, "final", {})


def test_names_decide_and_not_indices(store, label) -> None:
    info = {"label_info": [{"name": "b", "idx": 2}, {"name": "a", "idx": 3}]}
    store.save_label("one", label, "final", info)
    stored = read_label(store.get_label_uri("one", "final")).array
    np.testing.assert_array_equal(stored, np.select(
        [read_label(label).array == 1, read_label(label).array == 2], [2, 1], 0
    ))  # fmt: skip


def test_a_child_never_rewrites_the_index(store, label) -> None:
    child = UncolDatastore(
        store._datastore_path, labels=LABELS, extensions=EXTENSIONS, read_only=True
    )
    store.save_label("one", label, "final", {"note": "kept"})
    child.update_image_info("two", {"stale": True})
    again = UncolDatastore(store._datastore_path, labels=LABELS, extensions=EXTENSIONS)
    assert again.get_label_info("one", "final")["note"] == "kept"


def test_the_extension_is_only_taken_off_the_end(store) -> None:
    assert store._to_id("scan.nii.gz.copy.nii.gz") == ("scan.nii.gz.copy", ".nii.gz")
    assert store._to_id("my.png.scan.nrrd") == ("my.png.scan", ".nrrd")


def test_an_unreadable_scan_is_not_added(store, tmp_path) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"nothing")
    with pytest.raises(ScanError, match="'bad'"):
        store.add_image("bad", str(bad), {})
    assert store.list_images() == ["one", "two"]


def test_names_are_checked_by_one_rule() -> None:
    module.check_name("patient 01.final", "image id")
    with pytest.raises(RequestError, match="label tag"):
        module.check_name("..", "label tag")
