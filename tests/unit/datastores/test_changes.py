"""Scans and labels that are replaced, renamed, moved and removed behind the server's back."""

import json
import os
import shutil
import sqlite3
import time

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from studies_folder import SCAN, open_folder, write

from uncol.data.scan import read_label
from uncol.datastores import arrivals


def who(store, case="one"):
    return store.get_label_info(case, "final").get("user")


@pytest.fixture
def labeled(store, label):
    store.save_label("one", label, "final", {"user": "ada"})
    store.save_label("one", label, "original", {"model": "uncol"})
    return store


def other_scan(store, name="one.nii.gz"):
    return write(store._root / name, SCAN)


def test_scans_that_are_away_for_a_moment_keep_their_labels(labeled, tmp_path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    for path in labeled._root.glob("*.nii.gz"):
        shutil.move(path, away)
    labeled.refresh()
    assert labeled.status()["total"] == 0
    assert labeled.get_image_info("one") == {}
    for path in away.iterdir():
        shutil.move(path, labeled._root)
    labeled.refresh()
    assert labeled.get_labeled_images() == ["one"]
    assert who(labeled) == "ada"


def test_a_folder_that_is_unmounted_changes_nothing(labeled, tmp_path) -> None:
    labeled._root.rename(tmp_path / "away")
    labeled._root.mkdir()
    with pytest.raises(Exception, match="still mounted"):
        labeled.refresh()
    assert labeled.list_images() == []
    labeled._root.rmdir()
    (tmp_path / "away").rename(labeled._root)
    labeled.refresh()
    assert labeled.get_labeled_images() == ["one"]
    assert who(labeled) == "ada"


def test_the_label_of_another_scan_is_set_aside_and_its_predictions_go(labeled, caplog) -> None:
    first = (labeled._root / "one.nii.gz").read_bytes()
    drawn = read_label(labeled.get_label_uri("one", "final")).array
    other_scan(labeled)
    labeled.refresh()
    assert labeled.get_labeled_images() == []
    assert labeled.get_labels_by_image_id("one") == {}
    assert "do not count" in labeled.get_image_info("one")["label_set_aside"]
    assert "'one'" in caplog.text
    (aside,) = labeled.history.of("one")
    np.testing.assert_array_equal(read_label(aside.path).array, drawn)

    (labeled._root / "one.nii.gz").write_bytes(first)
    labeled.refresh()
    assert labeled.get_labeled_images() == ["one"]
    assert who(labeled) == "ada"
    assert "label_set_aside" not in labeled.get_image_info("one")
    assert who(open_folder(labeled._root)) == "ada"


def test_a_label_can_be_drawn_on_the_new_scan(labeled, label) -> None:
    other_scan(labeled)
    labeled.refresh()
    labeled.save_label("one", label, "final", {"user": "bob"})
    labeled.refresh()
    assert who(labeled) == "bob"
    assert [kept.info["user"] for kept in labeled.history.of("one")] == ["ada", "bob"]


@pytest.mark.parametrize("how", ["touched", "compressed anew", "another format"])
def test_the_same_scan_in_other_bytes_is_the_same_scan(labeled, how) -> None:
    path = labeled._root / "one.nii.gz"
    if how == "touched":
        os.utime(path)
    elif how == "compressed anew":
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), path)
    else:
        sitk.WriteImage(sitk.ReadImage(str(path)), str(labeled._root / "one.nrrd"))
        path.unlink()
    labeled.refresh()
    assert labeled.get_labeled_images() == ["one"]
    assert set(labeled.get_labels_by_image_id("one")) == {"final", "original"}


def test_a_label_follows_a_scan_that_is_renamed(labeled, caplog) -> None:
    (labeled._root / "one.nii.gz").rename(labeled._root / "renamed.nii.gz")
    labeled.refresh()
    assert labeled.get_labeled_images() == ["renamed"]
    assert who(labeled, "renamed") == "ada"
    assert "was called 'one': its label counts again" in caplog.text
    (labeled._root / "uncol.sqlite").unlink()
    assert who(open_folder(labeled._root), "renamed") == "ada"


def test_a_label_that_could_follow_two_scans_follows_none(labeled, label) -> None:
    shutil.copy(labeled._root / "one.nii.gz", labeled._root / "twin.nii.gz")
    labeled.refresh()
    labeled.save_label("twin", label, "final", {"user": "bob"})
    for name in ("one", "twin"):
        (labeled._root / f"{name}.nii.gz").rename(labeled._root / f"new-{name}.nii.gz")
    labeled.refresh()
    assert labeled.get_labeled_images() == []
    for name in ("one", "twin"):
        (labeled._root / f"new-{name}.nii.gz").rename(labeled._root / f"{name}.nii.gz")
    labeled.refresh()
    assert (who(labeled), who(labeled, "twin")) == ("ada", "bob")


def test_a_label_put_there_by_hand_counts(store, label) -> None:
    final = store._root / "labels" / "final"
    final.mkdir(parents=True)
    shutil.copy(label, final / "two.nii.gz")
    store.refresh()
    assert store.get_labeled_images() == ["two"]
    assert store.get_label_info("two", "final")["name"] == "two.nii.gz"
    assert "user" not in store.get_label_info("two", "final")


def test_a_label_changed_by_hand_is_nobodys_and_the_one_before_can_be_put_back(
    labeled, label
) -> None:
    path = labeled._root / "labels" / "final" / "one.nii.gz"
    before = path.read_bytes()
    changed = nib.load(label).get_fdata().astype(np.uint8)
    changed[0, 0, 0] = 1
    write(path, changed)
    labeled.refresh()
    assert who(labeled) is None
    path.write_bytes(before)
    labeled.refresh()
    assert who(labeled) == "ada"


def test_a_scan_that_cannot_be_read_is_not_handed_out_until_it_changes(store, tmp_path) -> None:
    whole = (store._root / "one.nii.gz").read_bytes()
    (store._root / "one.nii.gz").write_bytes(whole[: len(whole) // 2])
    store.refresh()
    assert not store.is_readable("one")
    assert store.list_images() == ["two"]
    (left,) = store.status()["left_out_files"]
    assert left["file"] == "one.nii.gz"
    assert "damaged" in left["reason"]
    (store._root / "one.nii.gz").write_bytes(whole)
    store.refresh()
    assert store.is_readable("one")
    assert store.status()["left_out"] == 0


def test_a_file_that_still_arrives_waits(store, monkeypatch) -> None:
    monkeypatch.setattr(arrivals, "SETTLED_S", 0.2)
    whole = (store._root / "one.nii.gz").read_bytes()
    new = store._root / "new.nii.gz"
    new.write_bytes(whole[:100])
    store._look(settled=True)
    assert "new" not in store.list_images()
    new.write_bytes(whole)
    time.sleep(0.25)
    store._look(settled=True)  # it has changed since
    assert "new" not in store.list_images()
    time.sleep(0.25)
    store._look(settled=True)
    assert "new" in store.list_images()


def test_a_watched_folder_needs_nobody_to_ask(store) -> None:
    watched = open_folder(store._root, watch=True)
    write(store._root / "late.nii.gz", SCAN)
    end = time.monotonic() + 30
    while "late" not in watched.list_images():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_two_servers_on_one_folder_see_each_other(labeled, label) -> None:
    other = open_folder(labeled._root)
    assert who(other) == "ada"
    other.save_label("two", label, "final", {"user": "bob"})
    labeled.refresh()
    assert who(labeled, "two") == "bob"
    labeled.save_label("one", label, "final", {"user": "eve"})
    other.refresh()
    assert who(other) == "eve"


@pytest.mark.parametrize("loss", ["removed", "damaged"])
def test_a_lost_record_is_made_anew_from_files_and_history(labeled, label, caplog, loss) -> None:
    final = labeled._root / "labels" / "final"
    shutil.copy(label, final / "two.nii.gz")  # nobody submitted this one
    changed = nib.load(label).get_fdata().astype(np.uint8)
    changed[0, 0, 0] = 1
    new = write(final.parent / "new.nii.gz", changed)
    labeled.save_label("one", new, "final", {"user": "bob", "label_info": []})
    labeled._record.database.close()
    for path in labeled._root.glob("uncol.sqlite*"):
        path.unlink()
    if loss == "damaged":
        (labeled._root / "uncol.sqlite").write_bytes(os.urandom(5000))
    again = open_folder(labeled._root)
    again.refresh()  # a label counts once its scan was read
    assert set(again.get_labeled_images()) == {"one", "two"}
    assert who(again) == "bob"
    assert [kept.info["user"] for kept in again.history.of("one")] == ["ada", "bob"]
    assert "made anew" in caplog.text
    assert "labels of two" in caplog.text
    caplog.clear()
    assert who(open_folder(labeled._root)) == "bob"
    assert caplog.text == ""


def test_the_folder_of_an_earlier_version_opens_without_loss(store, label) -> None:
    root = store._root
    store.save_label("one", label, "final", {"user": "ada", "label_info": []})
    info = store.get_label_info("one", "final")
    store._record.database.close()
    for path in root.glob("uncol.sqlite*"):
        path.unlink()
    shutil.rmtree(root / ".history")
    final = {"ext": ".nii.gz", "info": info}
    one = {"image": {"ext": ".nii.gz", "info": {"note": "seen"}}, "labels": {"final": final}}
    index = {"name": "x", "description": "", "objects": {"one": one}}
    (root / "datastore_v2.json").write_text(json.dumps(index))
    again = open_folder(root)
    assert again.get_label_info("one", "final") == info
    assert again.get_image_info("one")["note"] == "seen"
    assert not (root / "datastore_v2.json").exists()
    for path in root.glob("uncol.sqlite*"):  # and from then on it can be lost
        path.unlink()
    assert open_folder(root).get_label_info("one", "final") == info


def test_what_a_killed_writer_left_goes_at_the_next_start(labeled) -> None:
    final = labeled._root / "labels" / "final"
    left = [labeled._root / ".uncol-77-1.nii.gz", final / ".uncol-77-1.before"]
    others = [labeled._root / ".2024.12.backup.nii.gz", final / ".uncol-78-1.nii.gz"]
    (labeled._root / ".uncol-folder").mkdir()
    for path in (*left, *others):
        path.write_bytes(b"x")
    for path in (*left, others[0]):
        os.utime(path, (1, 1))
    open_folder(labeled._root)
    assert [path for path in left if path.exists()] == []
    assert [path for path in others if not path.exists()] == []


def test_a_child_sees_what_the_server_knows_and_moves_nothing(labeled) -> None:
    other_scan(labeled)  # the server has not looked yet
    child = open_folder(labeled._root, read_only=True)
    assert "one" not in child.get_labeled_images()
    assert (labeled._root / "labels" / "final" / "one.nii.gz").exists()
    labeled.refresh()
    assert labeled.get_labeled_images() == []


@pytest.mark.parametrize(
    ("pattern", "patient"), [("", "sub-01_T1w"), (r"^(sub-\d+)", "sub-01"), (r"sub-\d", "sub-0")]
)
def test_a_pattern_says_whose_scan_it_is(store, pattern, patient) -> None:
    assert open_folder(store._root, patient=pattern).patient_of("sub-01_T1w") == patient


def test_a_record_that_another_program_locks_is_said(labeled, label, monkeypatch) -> None:
    monkeypatch.setattr("uncol.storage.database.BUSY_S", 0.1)
    store = open_folder(labeled._root)
    holder = sqlite3.connect(labeled._root / "uncol.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Exception, match="locked"):
        store.save_label("one", label, "final", {"user": "bob"})
    holder.execute("ROLLBACK")
    holder.close()
    assert who(store) == "ada"
    store.save_label("one", label, "final", {"user": "bob"})
    assert who(store) == "bob"
