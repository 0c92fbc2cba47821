"""A studies folder that somebody tries to break: names, notes, a cut index, a full disk."""

import os
import shutil
import sqlite3
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from studies_folder import SCAN, open_folder, write

from uncol.errors import RequestError, StorageError
from uncol.storage.database import Database


def again(store):
    return open_folder(store._root)


def test_removing_a_case_that_is_a_link_leaves_what_it_points_to(store, tmp_path) -> None:
    studies = store._root
    archive = Path(write(tmp_path / "archive.nii.gz", SCAN))
    (studies / "linked.nii.gz").symlink_to(archive)
    store.refresh()
    assert "linked" in store.list_images()
    store.remove_image("linked")
    assert archive.exists()
    assert not (studies / "linked.nii.gz").is_symlink()
    assert store.list_images() == ["one", "two"]


@pytest.mark.parametrize("name", ["../two", "../../evil", "/etc/passwd", "", ".", "a/b"])
def test_no_id_removes_anything_elsewhere(store, name) -> None:
    with pytest.raises(RequestError):
        store.remove_label(name, "original")
    with pytest.raises(RequestError):
        store.remove_image(name)
    assert again(store).list_images() == ["one", "two"]


@pytest.mark.parametrize(
    "notes",
    [{"x": "\ud800"}, {"x": float("nan")}, {"x": [[[[[[[[[[[[[[1]]]]]]]]]]]]]]}],
    ids=range(3),
)
def test_notes_that_could_not_be_read_again_are_refused(store, label, notes) -> None:
    store.save_label("one", label, "final", {})
    for note in (
        lambda: store.update_image_info("one", notes),
        lambda: store.update_label_info("one", "final", notes),
        lambda: store.save_label("one", label, "final", notes),
        lambda: store.add_image("three", store.get_image_uri("one"), notes),
    ):
        with pytest.raises(RequestError, match="info"):
            note()
    assert again(store).get_labeled_images() == ["one"]


@pytest.mark.parametrize("damage", ["", "{", "null", "[]", '{"objects": {"one": 3}}', '"\\ud800"'])
def test_an_earlier_index_that_cannot_be_read_changes_nothing(store, label, damage) -> None:
    store.save_label("one", label, "final", {"user": "ada"})
    (store._root / "uncol.sqlite").unlink()
    (store._root / "datastore_v2.json").write_text(damage)
    opened = again(store)
    opened.refresh()
    assert opened.list_images() == ["one", "two"]
    assert opened.get_label_info("one", "final")["user"] == "ada"
    assert (store._root / "datastore_v2.json.taken-over").read_text() == damage
    assert again(opened).get_labeled_images() == ["one"]


def test_a_file_whose_name_is_not_utf8_is_left_out(store) -> None:
    studies = str(store._root)
    shutil.copyfile(store.get_image_uri("one"), os.fsencode(studies) + b"/M\xfcller.nii.gz")
    os.makedirs(os.fsencode(studies) + b"/labels/M\xfc")
    store.refresh()
    assert again(store).list_images() == ["one", "two"]


@pytest.mark.parametrize("full", ["history", "copy", "record", "label", "read-only"])
def test_on_a_full_disk_what_is_said_is_true(store, label, tmp_path, monkeypatch, full) -> None:
    store.save_label("one", label, "final", {"user": "ada"})
    path = Path(store.get_label_uri("one", "final"))
    before = path.read_bytes()
    changed = nib.load(label).get_fdata().astype(np.uint8)
    changed[0, 0, 0] = 1
    new = write(tmp_path / "new.nii.gz", changed)

    def refuse(*paths: object, **_: object) -> None:
        if full == "record":
            raise sqlite3.OperationalError("database or disk is full")
        if full == "copy":
            Path(str(paths[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    noted = sorted(tmp_path.rglob(".history/**/*"))
    if full == "history":
        monkeypatch.setattr(store.history, "add", refuse)
    elif full == "copy":
        monkeypatch.setattr("uncol.datastores.history.shutil.copyfile", refuse)
    elif full == "record":
        monkeypatch.setattr(Database, "_write", refuse)
    else:
        monkeypatch.setattr("uncol.datastores.studies.os.replace", refuse)
    if full == "read-only":
        monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageError, match=r"full|No space") as error:
        store.save_label("one", new, "final", {"user": "bob"})
    said = str(error.value)
    assert "The earlier label is unchanged. Free some disk space, or let this user" in said
    assert ".." not in said
    assert said.count("Free some disk space") == 1
    monkeypatch.undo()
    if full != "read-only":
        assert sorted(tmp_path.rglob(".history/**/*")) == noted
    assert path.read_bytes() == before
    assert store.get_label_info("one", "final")["user"] == "ada"
    assert again(store).get_label_info("one", "final")["user"] == "ada"
    store.save_label("one", new, "final", {"user": "bob"})
    assert again(store).get_label_info("one", "final")["user"] == "bob"


def test_a_folder_that_cannot_be_used_is_said(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="studies folder"):
        open_folder(tmp_path / "file")
