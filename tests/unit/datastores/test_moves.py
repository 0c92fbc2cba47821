"""A label and its scan find each other, whatever is renamed, swapped, copied or removed by hand."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from studies_folder import SCAN, open_folder, write

from uncol.data.scan import read_label
from uncol.datastores.pool import case_of


def who(store, case="one"):
    return store.get_label_info(case, "final").get("user")


@pytest.fixture
def labeled(store, label):
    store.save_label("one", label, "final", {"user": "ada"})
    return store


def other_scan(store, name="one.nii.gz"):
    return write(store._root / name, SCAN)


def submit(store, case, label, user):
    store.save_label(case, label, "final", {"user": user})


def drawn(tmp_path, size):
    array = np.zeros((6, 5, 4), np.uint8)
    array[:size] = 1
    return write(tmp_path / f"drawn{size}.nii.gz", array)


def test_a_label_put_there_by_hand_belongs_to_the_scan_that_was_there_then(store, label) -> None:
    store.refresh()
    assert store.is_readable("one")
    final = store._root / "labels" / "final"
    final.mkdir(parents=True)
    shutil.copy(label, final / "one.nii.gz")
    store.refresh()
    assert store.get_labeled_images() == ["one"]
    other_scan(store)
    store.refresh()
    assert store.get_labeled_images() == []
    assert len(store.history.of("one")) >= 1


@pytest.mark.parametrize("how", ["overwritten", "written in place", "removed"])
def test_what_happens_to_a_label_file_by_hand_loses_no_submitted_label(
    labeled, tmp_path, how
) -> None:
    path = labeled._root / "labels" / "final" / "one.nii.gz"
    before = read_label(path).array
    if how == "removed":
        path.unlink()
    elif how == "overwritten":
        shutil.copy(drawn(tmp_path, 2), path)
    else:
        with path.open("rb+") as stream:
            stream.truncate()
            stream.write(Path(drawn(tmp_path, 2)).read_bytes())
    labeled.refresh()
    assert (labeled.get_labeled_images() == []) == (how == "removed")
    first = labeled.history.of("one")[0]
    np.testing.assert_array_equal(read_label(first.path).array, before)
    assert first.info["user"] == "ada"
    labeled.refresh()  # what was removed by hand does not come back by itself
    assert (labeled.get_labeled_images() == []) == (how == "removed")


def test_scans_that_swap_their_names_swap_their_labels(labeled, tmp_path) -> None:
    submit(labeled, "two", drawn(tmp_path, 2), "bob")
    labels = {n: read_label(labeled.get_label_uri(n, "final")).array for n in ("one", "two")}
    root = labeled._root
    for old, new in (("one", "x"), ("two", "one"), ("x", "two")):
        (root / f"{old}.nii.gz").rename(root / f"{new}.nii.gz")
    labeled.refresh()
    assert (who(labeled, "one"), who(labeled, "two")) == ("bob", "ada")
    for name, other in (("one", "two"), ("two", "one")):
        now = read_label(labeled.get_label_uri(name, "final")).array
        np.testing.assert_array_equal(now, labels[other])


def test_a_swap_of_files_that_look_alike_is_seen(tmp_path) -> None:
    root = tmp_path / "studies"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write(root / f"{name}.nii", rng.normal(size=(6, 5, 4)).astype(np.float32))
        os.utime(root / f"{name}.nii", (1e9, 1e9))
    store = open_folder(root)
    submit(store, "a", drawn(tmp_path, 2), "ada")
    for old, new in (("a", "x"), ("b", "a"), ("x", "b")):
        (root / f"{old}.nii").rename(root / f"{new}.nii")
    store.refresh()
    assert store.get_labeled_images() == ["b"]
    assert who(store, "b") == "ada"


def test_scans_that_are_renumbered_keep_their_labels(tmp_path) -> None:
    root = tmp_path / "studies"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        write(root / f"{name}.nii.gz", rng.normal(size=(6, 5, 4)).astype(np.float32))
    store = open_folder(root)
    for number, name in enumerate("abc", start=1):
        submit(store, name, drawn(tmp_path, number), f"user of {name}")
    for old, new in (("c", "d"), ("b", "c"), ("a", "b")):
        (root / f"{old}.nii.gz").rename(root / f"{new}.nii.gz")
    store.refresh()
    assert {name: who(store, name) for name in store.get_labeled_images()} == {
        "b": "user of a", "c": "user of b", "d": "user of c",
    }  # fmt: skip


def test_a_scan_copied_elsewhere_and_then_removed_takes_its_label_along(labeled) -> None:
    shutil.copy(labeled._root / "one.nii.gz", labeled._root / "copy.nii.gz")
    labeled.refresh()
    assert labeled.get_labeled_images() == ["one"]
    (labeled._root / "one.nii.gz").unlink()
    labeled.refresh()
    assert labeled.get_labeled_images() == ["copy"]
    assert who(labeled, "copy") == "ada"


def test_a_removed_label_does_not_come_back(labeled) -> None:
    labeled.remove_label("one", "final")
    for _ in range(2):
        labeled.refresh()
        assert labeled.get_labeled_images() == []
    (labeled._root / "one.nii.gz").rename(labeled._root / "other.nii.gz")
    labeled.refresh()
    assert labeled.get_labeled_images() == []


def test_each_scan_under_a_name_has_its_own_label(labeled, tmp_path) -> None:
    first = (labeled._root / "one.nii.gz").read_bytes()
    other_scan(labeled)
    labeled.refresh()
    submit(labeled, "one", drawn(tmp_path, 3), "bob")
    second = (labeled._root / "one.nii.gz").read_bytes()
    for content, user in ((first, "ada"), (second, "bob"), (first, "ada")):
        (labeled._root / "one.nii.gz").write_bytes(content)
        labeled.refresh()
        assert who(labeled) == user


def test_a_label_submitted_on_a_scan_that_was_just_replaced_is_the_new_scan_s(
    labeled, tmp_path
) -> None:
    other_scan(labeled)
    submit(labeled, "one", drawn(tmp_path, 2), "bob")
    labeled.refresh()
    assert labeled.get_labeled_images() == ["one"]
    assert who(labeled) == "bob"


def test_voxels_beside_a_header_are_part_of_the_scan(tmp_path) -> None:
    root = tmp_path / "studies"
    root.mkdir()
    for seed, folder in ((0, root), (1, tmp_path)):
        scan = np.random.default_rng(seed).normal(size=(4, 5, 6)).astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(scan), str(folder / "one.mhd"))
    whole = (root / "one.raw").read_bytes()
    (root / "one.raw").unlink()
    store = open_folder(root)
    assert not store.is_readable("one")
    (root / "one.raw").write_bytes(whole)
    store.refresh()
    assert store.is_readable("one")
    array = np.zeros((6, 5, 4), np.uint8)
    array[1:3] = 1
    path = tmp_path / "l.nii.gz"
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1, 1, 1])), path)
    submit(store, "one", str(path), "ada")
    shutil.copy(tmp_path / "one.raw", root / "one.raw")
    store.refresh()
    assert store.get_labeled_images() == []


def test_a_scan_that_could_not_be_read_for_a_moment_is_tried_again(store, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("uncol.data.imagefile.nib.load", fail)
    assert not store.is_readable("one")
    assert store.status()["left_out_files"][0]["file"] == "one"
    monkeypatch.undo()
    assert store.is_readable("one")
    assert store.status()["left_out"] == 0


def test_odd_names_end_neither_the_start_nor_the_watch(labeled) -> None:
    os.makedirs(os.fsencode(labeled._root) + b"/sub/M\xfc")
    shutil.copy(
        labeled._root / "two.nii.gz", os.fsencode(labeled._root) + b"/sub/M\xfc/sub1.nii.gz"
    )
    final = labeled._root / "labels" / "final"
    (final / os.fsdecode(b"one.\xfc")).write_bytes(b"x")
    (final / "one.json").write_text("{}")
    labeled.refresh()
    assert who(open_folder(labeled._root)) == "ada"
    assert labeled.get_labeled_images() == ["one"]


def test_a_dataset_of_scans_of_one_file_name_holds_all_of_them(store, label, tmp_path) -> None:
    for folder in ("w1", "w2"):
        (store._root / folder).mkdir()
        shutil.copy(store._root / "one.nii.gz", store._root / folder / "scan.nii.gz")
    store.refresh()
    for name in ("w1__scan", "w2__scan"):
        store.save_label(name, label, "final", {})
    archive = zipfile.ZipFile(store.write_archive(tmp_path / "all.zip"))
    assert {"image/w1__scan.nii.gz", "image/w2__scan.nii.gz"} <= set(archive.namelist())


def test_who_submitted_a_label_is_no_note(labeled) -> None:
    labeled.update_label_info("one", "final", {"user": "bob", "ts": 1, "seen": True})
    assert who(labeled) == "ada"
    assert labeled.get_label_info("one", "final")["seen"] is True


@pytest.mark.parametrize("odd", [{"two": 3}, {"two": {"labels": None}}, {}])
def test_one_odd_entry_of_an_earlier_index_costs_nothing_else(store, label, odd) -> None:
    final = store._root / "labels" / "final"
    final.mkdir(parents=True)
    shutil.copy(label, final / "one.nii.gz")
    listed = [{"name": "b", "idx": 1}, {"name": "a", "idx": 2}]
    info = {"user": "ada", "label_info": listed, "odd": float("nan")}
    entry = {"image": {"info": {}}, "labels": {"final": {"ext": ".nii.gz", "info": info}}}
    (store._root / "datastore_v2.json").write_text(json.dumps({"objects": {**odd, "one": entry}}))
    store._record.database.close()
    for path in store._root.glob("uncol.sqlite*"):
        path.unlink()
    again = open_folder(store._root)
    assert who(again) == "ada"
    assert case_of(again, "one").segments == {"b": 1, "a": 2}


def test_names_of_an_earlier_index_that_say_nothing_let_no_label_count(store, tmp_path) -> None:
    final = store._root / "labels" / "final"
    final.mkdir(parents=True)
    array = np.zeros((6, 5, 4), np.uint8)
    array[:2] = 2
    write(final / "one.nii.gz", array)
    info = {"label_info": [{"name": "a", "idx": 2}, {"name": "b", "idx": 3}]}
    entry = {"image": {"info": {}}, "labels": {"final": {"ext": ".nii.gz", "info": info}}}
    (store._root / "datastore_v2.json").write_text(json.dumps({"objects": {"one": entry}}))
    store._record.database.close()
    for path in store._root.glob("uncol.sqlite*"):
        path.unlink()
    assert open_folder(store._root).get_labeled_images() == []
