import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.datastores.listing import SCAN_FORMATS, look_into


@pytest.fixture
def folder(tmp_path):
    def fill(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return tmp_path

    return fill


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.nii.gz", "a"),
        ("upper.NII.GZ", "upper"),
        ("mixed.Nii.gz", "mixed"),
        ("photo.JPEG", "photo"),
        ("slide.tiff", "slide"),
        ("x.mha", "x"),
        ("x.nhdr", "x"),
        ("sub-01.run1.nii.gz", "sub-01.run1"),
        ("my.png.scan.nrrd", "my.png.scan"),
        ("scan.nii.gz.copy.nii.gz", "scan.nii.gz.copy"),
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01_T1w"),
        ("ward/monday/scan.nii", "ward__monday__scan"),
    ],
)
def test_a_scan_is_called_as_the_docs_say(folder, file, name) -> None:
    content = look_into(folder(file))
    assert {name: where for name, (where, _) in content.scans.items()} == {name: file}
    assert content.left_out == {}


@pytest.mark.parametrize(
    "file",
    [
        "._a.nii.gz", ".hidden.nii.gz", ".trash/a.nii.gz", "labels/a.nii.gz",
        "derivatives/a.nii.gz", "notes.xml", "readme.txt", "sub-01/scans.tsv",
    ],
)  # fmt: skip
def test_what_is_no_scan_is_no_case(folder, file) -> None:
    content = look_into(folder(file))
    assert content.scans == {}
    assert content.left_out == {}


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("a.seg.nrrd", "segmentation"),
        ("brain.mgz", "convert"),
        ("slide.svs", "convert"),
        ("M" * 210 + ".nii.gz", "too long"),
        ("ct/IM0001.dcm", "dcm2niix"),
    ],
)
def test_what_might_be_taken_for_a_scan_is_left_out_with_the_reason(folder, file, reason) -> None:
    content = look_into(folder(file))
    assert content.scans == {}
    (told,) = content.left_out.values()
    assert reason in told


def test_dicom_files_are_known_without_an_extension(folder) -> None:
    root = folder("ct/readme.txt")
    (root / "ct" / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    assert "dcm2niix" in look_into(root).left_out["ct"]


def test_of_two_files_of_one_name_one_counts_and_the_other_is_told(folder) -> None:
    root = folder("a.nrrd", "a.nii.gz", "photo.jpg", "photo.png", "x/b.nii", "x__b.nii.gz")
    content = look_into(root)
    assert content.scans["a"][0] == "a.nii.gz"
    assert content.scans["photo"][0] == "photo.jpg"
    assert content.scans["x__b"][0] == "x__b.nii.gz"
    assert set(content.left_out) == {"a.nrrd", "photo.png", "x/b.nii"}
    assert look_into(root, {"a": "a.nrrd"}).scans["a"][0] == "a.nrrd"


def test_names_that_are_not_utf8_are_left_out_in_words_that_can_be_sent(tmp_path) -> None:
    (tmp_path / os.fsdecode(b"M\xfcller.nii.gz")).write_bytes(b"x")
    content = look_into(tmp_path)
    assert content.scans == {}
    assert list(content.left_out) == [r"M\xfcller.nii.gz"]


def test_links_are_followed_and_never_in_circles(folder, tmp_path_factory) -> None:
    root = folder("a/one.nii.gz")
    (root / "a" / "back").symlink_to(root)
    archive = tmp_path_factory.mktemp("archive")
    (archive / "0123abcd").write_bytes(b"x")
    (root / "hub.nii.gz").symlink_to(archive / "0123abcd")
    (root / "gone.nii.gz").symlink_to(archive / "missing")
    content = look_into(root)
    assert set(content.scans) == {"a__one", "hub"}
    assert "cannot be read" in content.left_out["gone.nii.gz"]


def test_pipes_and_folders_are_no_scans(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    assert look_into(tmp_path).scans == {}


def test_labels_are_found_by_tag_and_the_newer_of_two_counts(folder) -> None:
    root = folder("a.nii.gz", "labels/final/a.nii.gz", "labels/final/a.nrrd", "labels/final/.x")
    os.utime(root / "labels/final/a.nrrd", (1, 1))
    content = look_into(root)
    assert content.labels["a", "final"][0] == "labels/final/a.nii.gz"
    assert "newer" in content.left_out["labels/final/a.nrrd"]


NAMES = st.text(string.ascii_letters + "._- üé", min_size=1, max_size=12)


@given(names=st.lists(st.tuples(NAMES, st.sampled_from(SCAN_FORMATS)), max_size=8))
def test_each_file_is_a_case_or_left_out_or_hidden(tmp_path_factory, names) -> None:
    root = tmp_path_factory.mktemp("any")
    for name, extension in names:
        (root / f"{name}{extension}").write_bytes(b"x")
    content = look_into(root)
    files = {path.name for path in root.iterdir() if not path.name.startswith(".")}
    taken = {file for file, _ in content.scans.values()}
    assert taken | content.left_out.keys() == files
    assert taken.isdisjoint(content.left_out)
