"""Voxels and names of a series, compared with what pydicom says by hand."""

import io
import shutil

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless, generate_uid

from uncol.data.grid import Grid
from uncol.demo.series import write_series
from uncol.dicom.parametric_map import read_map, write_map
from uncol.dicom.segmentation import (
    LABEL,
    UNCERTAINTY,
    ResultOrigin,
    read_segmentation,
    write_segmentation,
)
from uncol.dicom.series import read_headers, read_series
from uncol.errors import LabelError

SHAPE = (7, 6, 5)
GRID = Grid(SHAPE, np.diag([-0.7, -1.3, 2.0, 1.0]))  # pixels that are not square
IMAGE = np.random.default_rng(0).integers(-900, 1500, SHAPE)


@pytest.fixture
def folder(tmp_path):
    write_series(tmp_path, IMAGE, GRID, number=1)
    return tmp_path


def change(folder, edit):
    for number, path in enumerate(sorted(folder.glob("*.dcm"))):
        dataset = pydicom.dcmread(path)
        edit(dataset, number)
        dataset.save_as(path)


def by_hand(folder):
    """Return the values as the standard has them (PS3.3 C.11.1): stored x slope + intercept."""
    slices = sorted(
        (pydicom.dcmread(path) for path in folder.glob("*.dcm")),
        key=lambda one: float(one.ImagePositionPatient[2]),
    )
    planes = [
        one.pixel_array.astype(np.float64) * float(one.get("RescaleSlope", 1))
        + float(one.get("RescaleIntercept", 0))
        for one in slices
    ]
    return np.stack([plane.T for plane in planes], axis=-1)


def slope_per_slice(one, number):
    one.RescaleSlope = "1" if number == 0 else f"{(1 + 0.01 * number) / 2000:.8g}"
    one.RescaleIntercept = "0" if number < 3 else "-3.5"


def unsigned(one, number):
    stored = one.pixel_array.astype(np.int64) + 1024
    one.PixelRepresentation = 0
    one.PixelData = stored.astype("<u2").tobytes()
    one.RescaleSlope, one.RescaleIntercept = "1", "-1024"


def padded(one, number):
    one.add_new("PixelPaddingValue", "SS", -2000)
    pixels = one.pixel_array.copy()
    pixels[0] = -2000
    one.PixelData = pixels.astype("<i2").tobytes()


CHANGES = {
    "as written": lambda one, number: None,
    "slope per slice": slope_per_slice,
    "unsigned with intercept": unsigned,
    "MONOCHROME1": lambda one, number: setattr(one, "PhotometricInterpretation", "MONOCHROME1"),
    "padding": padded,
    "RLE": lambda one, number: one.compress(RLELossless),
}


@pytest.mark.parametrize("kind", list(CHANGES))
def test_voxels_are_those_that_a_second_reader_finds(folder, kind):
    change(folder, CHANGES[kind])
    volume, _ = read_series(folder, case="it")
    np.testing.assert_allclose(volume.array, by_hand(folder), rtol=1e-6, atol=1e-6)
    assert volume.grid.spacing_mm == pytest.approx((0.7, 1.3, 2.0))


REMOVED = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID",
    "PositionReferenceIndicator", "Manufacturer", "SeriesNumber", "InstanceNumber", "Modality",
]  # fmt: skip


def label():
    array = np.zeros(SHAPE, np.uint8)
    array[1:3, 2:4, 1:3] = 1
    array[4:6, 2:4, 2:5] = 2
    return array


def stored(dataset):
    """Return a data set as a PACS gives it back."""
    stream = io.BytesIO()
    dataset.save_as(stream, write_like_original=False)
    stream.seek(0)
    return pydicom.dcmread(stream)


@pytest.mark.parametrize("word", REMOVED)
def test_what_an_anonymizer_removed_is_no_obstacle(folder, word):
    change(folder, lambda one, number: one.pop(word, None))
    series = read_headers(folder, case="it")
    made = stored(write_segmentation(label(), {"a": 1, "b": 2}, series, ResultOrigin(LABEL, "x")))
    array, _ = read_segmentation(made, series.grid)
    np.testing.assert_array_equal(array, label())
    write_map(label().astype(np.float32) / 2, series, ResultOrigin(UNCERTAINTY, "x", 1))


def test_results_of_one_series_share_a_frame_of_reference_that_it_lacks(folder):
    change(folder, lambda one, number: one.pop("FrameOfReferenceUID"))
    uids = {str(read_headers(folder, case="it").headers[0].FrameOfReferenceUID) for _ in range(2)}
    assert len(uids) == 1


def test_a_series_that_no_result_can_refer_to_is_refused_in_words(folder):
    change(folder, lambda one, number: one.pop("SOPInstanceUID"))
    series = read_headers(folder, case="it")
    with pytest.raises(LabelError, match="can refer to this series"):
        write_segmentation(label(), {"a": 1}, series, ResultOrigin(LABEL, "x"))
    with pytest.raises(LabelError, match="can refer to this series"):
        write_map(label().astype(np.float32), series, ResultOrigin(UNCERTAINTY, "x", 1))


@pytest.mark.parametrize(
    ("charset", "patient"),
    [
        ("ISO_IR 192", "王^小東"), ("ISO_IR 100", "Müller^Jörg"), ("ISO_IR 144", "Дом^Иван"),
        (None, "Plain^Name"),
    ],
)  # fmt: skip
def test_names_in_any_script_come_back(folder, charset, patient):
    def named(one, number):
        one.SpecificCharacterSet, one.PatientName = charset, patient

    change(folder, named)
    series = read_headers(folder, case="it")
    names = {"肝脏": 1, "Milz (groß)": 2}
    made = stored(write_segmentation(label(), names, series, ResultOrigin(LABEL, "Größe", None)))
    assert made.SpecificCharacterSet == "ISO_IR 192"
    assert str(made.PatientName) == patient
    array, found = read_segmentation(made, series.grid)
    assert set(found) == set(names)
    for name, value in names.items():
        np.testing.assert_array_equal(array == found[name], label() == value)
    values = (label() / 2).astype(np.float32)
    back = stored(write_map(values, series, ResultOrigin(UNCERTAINTY, "Größe", 1)))
    assert str(back.PatientName) == patient
    np.testing.assert_array_equal(read_map(back, series.grid), values)


def as_label_map(folder, series):
    """Return a Label Map Segmentation as viewers write it: pixels are segment numbers."""
    made = stored(write_segmentation(label(), {"a": 1, "b": 2}, series, ResultOrigin(LABEL, "x")))
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    made.SOPInstanceUID = generate_uid()
    made.SegmentationType, made.BitsAllocated, made.BitsStored, made.HighBit = "LABELMAP", 8, 8, 7
    groups = []
    for header in series.headers:
        place, group = Dataset(), Dataset()
        place.ImagePositionPatient = header.ImagePositionPatient
        group.PlanePositionSequence = [place]
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence, made.NumberOfFrames = groups, len(groups)
    made.PixelData = np.ascontiguousarray(label().transpose(2, 1, 0)).tobytes()
    return made


@pytest.mark.parametrize("packed", [False, True])
def test_a_label_map_segmentation_is_read(folder, packed):
    series = read_headers(folder, case="it")
    made = as_label_map(folder, series)
    if packed:  # as OHIF stores it
        made.compress(RLELossless)
    array, names = read_segmentation(stored(made), series.grid)
    np.testing.assert_array_equal(array, label())
    assert names == {"a": 1, "b": 2}


def test_a_value_of_a_label_map_that_no_segment_has_is_refused(folder):
    series = read_headers(folder, case="it")
    made = as_label_map(folder, series)
    del made.SegmentSequence[1]
    with pytest.raises(LabelError, match=r"values \[2\], which no segment has"):
        read_segmentation(stored(made), series.grid)


def test_the_same_voxels_are_drawn_stored_and_read(folder, tmp_path_factory):
    series = read_headers(folder, case="it")
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    made = stored(write_segmentation(label(), {"a": 1, "b": 2}, series, ResultOrigin(LABEL, "x")))
    again = read_headers(copy, case="it")
    array, _ = read_segmentation(made, again.grid)
    np.testing.assert_array_equal(array, label())
