import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from studies_folder import LABELS, SCAN, open_folder, write

from uncol.data.scan import read_label
from uncol.datastores.pool import case_of, cases_of
from uncol.errors import LabelError, RequestError, ScanError, StorageError


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
    assert not (store._root / "labels" / "final" / "one.nii.gz").exists()


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
    with pytest.raises(
        LabelError, match=r"'one' is not on its scan's grid: it has 5x5x4 voxels.*6x5x4"
    ):
        store.save_label("one", small, "final", {})


def test_names_decide_and_not_indices(store, label) -> None:
    info = {"label_info": [{"name": "b", "idx": 2}, {"name": "a", "idx": 3}]}
    store.save_label("one", label, "final", info)
    stored = read_label(store.get_label_uri("one", "final")).array
    np.testing.assert_array_equal(stored, np.select(
        [read_label(label).array == 1, read_label(label).array == 2], [2, 1], 0
    ))  # fmt: skip


def test_a_child_never_rewrites_the_index(store, label) -> None:
    child = open_folder(store._root, read_only=True)
    store.save_label("one", label, "final", {"note": "kept"})
    with pytest.raises(StorageError, match="reading only"):
        child.update_image_info("two", {"stale": True})
    with pytest.raises(StorageError, match="reading only"):
        child.save_label("two", label, "final", {})
    again = open_folder(store._root)
    assert again.get_label_info("one", "final")["note"] == "kept"


def test_an_unreadable_scan_is_not_added(store, tmp_path) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"nothing")
    with pytest.raises(ScanError, match="'bad'"):
        store.add_image("bad", str(bad), {})
    assert store.list_images() == ["one", "two"]


def test_another_scan_under_an_id_that_is_taken_is_refused(store, label, tmp_path) -> None:
    store.save_label("one", label, "final", {"user": "ann"})
    scan = Path(store.get_image_uri("one"))
    before = scan.read_bytes()
    other = write(tmp_path / "other.nii.gz", SCAN)
    with pytest.raises(RequestError, match="There is a case 'one' already"):
        store.add_image("one", other, {})
    assert scan.read_bytes() == before
    assert store.get_labeled_images() == ["one"]
    assert store.get_label_info("one", "final")["user"] == "ann"


def test_the_same_scan_sent_again_changes_nothing(store, label) -> None:
    store.save_label("one", label, "final", {})
    assert store.add_image("one", store.get_image_uri("one"), {}) == "one"
    assert store.get_labeled_images() == ["one"]


def test_a_new_scan_is_there_at_once_and_whole(store, tmp_path, monkeypatch) -> None:
    other = write(tmp_path / "new.nii.gz", SCAN)
    assert store.add_image("", other, {"user": "ann"}) == "new"
    assert sorted(store.list_images()) == ["new", "one", "two"]
    assert store.get_image_info("new")["user"] == "ann"
    assert Path(store.get_image_uri("new")).read_bytes() == Path(other).read_bytes()

    def full(_source, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match=r"'more'.*disk space"):
        store.add_image("more", other, {})
    store.refresh()
    assert sorted(store.list_images()) == ["new", "one", "two"]
    assert not list(store._root.glob(".*partial"))


def test_a_label_file_that_the_index_does_not_know_is_kept_in_the_history(store, label) -> None:
    store.save_label("one", label, "final", {})
    drawn = read_label(store.get_label_uri("one", "final")).array
    with store._record.database.change() as change:  # as a record from a backup has it
        change.drop(store._record.labels, "one/final")
    changed = nib.load(label).get_fdata().astype(np.uint8)
    changed[0, 0, 0] = 1
    store.save_label("one", write(Path(label).with_name("l2.nii.gz"), changed), "final", {})
    kept, _ = store.history.of("one")
    np.testing.assert_array_equal(read_label(kept.path).array, drawn)


def test_removing_a_label_removes_it_in_every_format(store, label) -> None:
    store.save_label("one", label, "final", {})
    folder = store._root / "labels" / "final"
    nib.save(nib.load(label), folder / "one.nii")
    store.remove_label("one", "final")
    assert list(folder.iterdir()) == []
    assert store.get_labeled_images() == []
    assert len(store.history.of("one")) == 2


def test_clients_cannot_change_what_a_submitted_label_s_values_mean(store, label) -> None:
    store.save_label("one", label, "final", {})
    bad = {"label_info": [{"name": "a", "idx": "one"}], "note": "fine"}
    store.update_label_info("one", "final", bad)
    assert case_of(store, "one").segments == LABELS
    assert store.get_label_info("one", "final")["note"] == "fine"


def test_a_record_that_was_spoiled_by_hand_names_the_case(store, label) -> None:
    store.save_label("one", label, "final", {})
    row = store._record.label("one", "final")
    spoiled = {**row.info, "label_info": [{"name": "a", "idx": "?"}]}
    with store._record.database.change() as change:
        change.put(store._record.labels, "one/final", row.model_copy(update={"info": spoiled}))
    with pytest.raises(LabelError, match="label_info of case 'one'"):
        case_of(store, "one")
    assert [case.name for case in cases_of(store)] == ["two"]
