import json
import os

import nibabel as nib
import numpy as np
import pytest

from uncol.data.scan import read_label
from uncol.datastores.folder import StudiesFolder

LABELS = {"a": 1}


def write(path, array):
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return str(path)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "studies").mkdir()
    scan = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    write(tmp_path / "studies" / "one.nii.gz", scan)
    return StudiesFolder(str(tmp_path / "studies"), labels=LABELS)


def drawn(size):
    label = np.zeros((6, 5, 4), np.uint8)
    label[:size] = 1
    return label


def submit(store, tmp_path, size, user, name="l.nii.gz"):
    store.save_label("one", write(tmp_path / name, drawn(size)), "final", {"user": user})


def test_every_earlier_label_is_kept_with_who_and_when(store, tmp_path):
    for size, user in ((1, "ada"), (2, "bob"), (3, "eve")):
        submit(store, tmp_path, size, user)
    kept = store.history.of("one")
    assert [one.info["user"] for one in kept] == ["ada", "bob", "eve"]
    assert all(one.info["ts"] for one in kept)
    for size, one in enumerate(kept, start=1):
        np.testing.assert_array_equal(read_label(one.path).array, drawn(size))
    np.testing.assert_array_equal(read_label(store.get_label_uri("one", "final")).array, drawn(3))


def test_a_removed_label_is_kept_too(store, tmp_path):
    submit(store, tmp_path, 2, "ada")
    store.remove_label("one", "final")
    assert store.get_labeled_images() == []
    (kept,) = store.history.of("one")
    np.testing.assert_array_equal(read_label(kept.path).array, drawn(2))


def test_what_is_no_annotation_has_no_history(store, tmp_path):
    for size in (1, 2):
        path = write(tmp_path / "m.nii.gz", drawn(size))
        store.save_label("one", path, "uncertainty", {})
    assert store.history.of("one") == []


def test_the_history_is_no_pool(store, tmp_path):
    submit(store, tmp_path, 1, "ada")
    submit(store, tmp_path, 2, "ada")
    again = StudiesFolder(str(tmp_path / "studies"), labels=LABELS)
    assert again.list_images() == ["one"]
    assert set(again.get_image_info("one")) == set(store.get_image_info("one"))


def test_half_a_history_entry_is_left_out(store, tmp_path):
    submit(store, tmp_path, 1, "ada")
    submit(store, tmp_path, 2, "ada")
    folder = tmp_path / "studies" / ".history" / "one"
    (folder / "2020-01-01T000000.000000Z-abc.nii.gz.json").write_text(json.dumps({"user": "x"}))
    assert len(store.history.of("one")) == 2


def test_a_label_counts_though_its_note_is_damaged(store, tmp_path):
    submit(store, tmp_path, 1, "ada")
    for note in (tmp_path / "studies" / ".history" / "one").glob("*.json"):
        note.write_text("{")
    (kept,) = store.history.of("one")
    np.testing.assert_array_equal(read_label(kept.path).array, drawn(1))


def test_a_file_system_without_links_gets_copies(store, tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("no links here")

    submit(store, tmp_path, 1, "ada")
    monkeypatch.setattr(os, "link", no_links)
    submit(store, tmp_path, 2, "ada")
    kept, _ = store.history.of("one")
    np.testing.assert_array_equal(read_label(kept.path).array, drawn(1))
