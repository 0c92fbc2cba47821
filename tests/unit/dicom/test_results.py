"""Segmentations and parametric maps: the same voxels come back, whoever reads them."""

import shutil
import subprocess

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.sr.codedict import codes

from uncol.data.grid import Grid
from uncol.dicom.parametric_map import read_map, write_map
from uncol.dicom.segmentation import (
    LABEL,
    STUDENT,
    UNCERTAINTY,
    ResultOrigin,
    is_own_result,
    latest,
    read_segmentation,
    structure_code,
    write_segmentation,
)
from uncol.errors import LabelError

NAMES = {"liver": 1, "left atrium": 2, "zone b": 7}
DRAWN = ResultOrigin(LABEL, "drawn by hand", author="Ada")


def drawn_in(grid):
    label = np.random.default_rng(0).choice([0, 1, 2, 7], grid.shape).astype(np.uint8)
    label[:, :, 0] = 0  # frames without anything are not stored
    return label


def stored(dataset, folder, name="it"):
    path = folder / f"{name}.dcm"
    dataset.save_as(path, write_like_original=False)
    return path


def test_a_label_comes_back_voxel_by_voxel(scan_and_series, tmp_path):
    _, series = scan_and_series
    label = drawn_in(series.grid)
    path = stored(write_segmentation(label, NAMES, series, DRAWN), tmp_path)
    array, names = read_segmentation(pydicom.dcmread(path), series.grid)
    assert set(names) == set(NAMES)
    for name, value in NAMES.items():
        np.testing.assert_array_equal(array == names[name], label == value)
    slices = [header.SOPInstanceUID for header in series.headers]
    seen = hd.seg.segread(path).get_pixels_by_source_instance(  # by another reader
        slices, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(seen.T, array)


def test_a_map_comes_back_to_the_last_bit(scan_and_series, tmp_path):
    _, series = scan_and_series
    values = np.random.default_rng(0).random(series.grid.shape, dtype=np.float32)
    path = stored(write_map(values, series, ResultOrigin(UNCERTAINTY, "map", version=3)), tmp_path)
    np.testing.assert_array_equal(read_map(pydicom.dcmread(path), series.grid), values)


def test_both_are_valid_dicom(scan_and_series, tmp_path):
    if not shutil.which("dciodvfy"):
        pytest.skip("Not installed: dciodvfy (apt-get install dicom3tools)")
    _, series = scan_and_series
    label = drawn_in(series.grid)
    made = [
        write_segmentation(label, NAMES, series, ResultOrigin(STUDENT, "student", version=1)),
        write_map(
            label.astype(np.float32) / 7, series, ResultOrigin(UNCERTAINTY, "map", version=1)
        ),
    ]
    for dataset in made:
        path = stored(dataset, tmp_path)
        told = subprocess.run(
            ["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False
        ).stderr
        assert [line for line in told.splitlines() if line.startswith("Error")] == []


@given(label=hnp.arrays(np.uint8, (5, 4, 6), elements=st.integers(0, 3)))
def test_any_label_comes_back(label, small_series):
    segments = {"one": 1, "two": 2, "three": 3}
    if not label.any():
        with pytest.raises(LabelError, match="empty"):
            write_segmentation(label, segments, small_series, DRAWN)
        return
    dataset = write_segmentation(label, segments, small_series, DRAWN)
    array, names = read_segmentation(dataset, small_series.grid)
    back = np.zeros_like(label)
    for name, number in names.items():
        back[array == number] = segments[name]
    np.testing.assert_array_equal(back, label)


@pytest.fixture(scope="module")
def small_series(as_series):
    return as_series(np.zeros((5, 4, 6)), Grid((5, 4, 6), np.diag([-1.0, -1.0, 2.0, 1.0])))[1]


@pytest.fixture
def segmentation(small_series):
    label = np.zeros((5, 4, 6), np.uint8)
    label[1:3, 1:3, 2:4] = 1
    label[3:, 3:, 4:] = 2
    return write_segmentation(label, {"one": 1, "two": 2}, small_series, DRAWN)


def test_overlapping_segments_are_refused(segmentation, small_series):
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient = segmentation[
            "PerFrameFunctionalGroupsSequence"
        ][0].PlanePositionSequence[0].ImagePositionPatient  # fmt: skip
    frames = np.ones(segmentation.pixel_array.shape, np.uint8)
    segmentation.PixelData = pydicom.pixel_data_handlers.pack_bits(frames.ravel())
    with pytest.raises(LabelError, match="overlap"):
        read_segmentation(segmentation, small_series.grid)


def test_a_segmentation_without_places_is_refused(segmentation, small_series):
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence
    with pytest.raises(LabelError, match="position in the patient"):
        read_segmentation(segmentation, small_series.grid)


def test_unreadable_pixels_are_refused(segmentation, small_series):
    segmentation.PixelData = b"\0\0"
    with pytest.raises(LabelError, match="cannot be read"):
        read_segmentation(segmentation, small_series.grid)


def test_frames_beyond_the_scan_are_left_out(segmentation, small_series):
    part = Grid((3, 2, 3), small_series.grid.affine)
    array, _ = read_segmentation(segmentation, part)
    np.testing.assert_array_equal(
        array, read_segmentation(segmentation, small_series.grid)[0][:3, :2, :3]
    )


@pytest.mark.parametrize(("most", "yes", "no"), [(100, 50, 49), (255, 255, 127), (255, 200, 0)])
def test_fractions_count_from_one_half(segmentation, small_series, most, yes, no):
    whole, _ = read_segmentation(segmentation, small_series.grid)
    frames = segmentation.pixel_array
    segmentation.SegmentationType, segmentation.MaximumFractionalValue = "FRACTIONAL", most
    segmentation.BitsAllocated = segmentation.BitsStored = 8
    segmentation.HighBit = 7
    segmentation.PixelData = np.where(frames, yes, no).astype(np.uint8).tobytes()
    segmentation._pixel_array = None
    again, _ = read_segmentation(segmentation, small_series.grid)
    np.testing.assert_array_equal(again, whole)


@pytest.mark.parametrize(
    "lacking",
    ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SegmentSequence"],
)
def test_what_lacks_a_part_is_refused(segmentation, small_series, lacking):
    del segmentation[lacking]
    with pytest.raises(LabelError, match="cannot be read"):
        read_segmentation(segmentation, small_series.grid)


def test_the_latest_instance_counts(segmentation):
    older = pydicom.Dataset()
    segmentation.InstanceNumber, older.InstanceNumber = 2, 1
    assert latest([segmentation, older]) is segmentation
    with pytest.raises(LabelError, match="no instance"):
        latest([])


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("liver", codes.SCT.Liver),
        ("left_atrium", codes.SCT.LeftAtrium),
        ("Spleen", codes.SCT.Spleen),
    ],
)
def test_known_structures_have_their_snomed_code(name, code):
    assert structure_code(name) == code


def test_an_unknown_structure_has_a_private_code():
    code = structure_code("zone b of the committee")
    assert (code.scheme_designator, code.meaning) == ("99UNCOL", "zone b of the committee")
    assert len(code.value) <= 16


def test_only_the_student_s_results_are_its_own(small_series, segmentation):
    assert not is_own_result(segmentation)
    label = np.ones((5, 4, 6), np.uint8)
    student = write_segmentation(
        label, {"one": 1}, small_series, ResultOrigin(STUDENT, "x", version=1)
    )
    assert is_own_result(student)
    student.Manufacturer = "Somebody else"
    assert not is_own_result(student)
