import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from uncol.data.grid import LPS_TO_RAS, Grid, affine_from_itk
from uncol.demo.series import write_series
from uncol.dicom.series import read_headers, read_series
from uncol.errors import ScanError


@st.composite
def oblique_grids(draw):
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.3, 6.0)] * 3))
    lps = np.eye(4)
    lps[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing)
    lps[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return Grid(draw(st.tuples(*[st.integers(2, 6)] * 3)), LPS_TO_RAS @ lps)


@given(oblique_grids(), st.booleans())
def test_every_voxel_keeps_its_place_and_value_however_the_scan_is_turned(grid, flipped):
    array = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    written = grid
    if flipped:  # slices written from the far end
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, 2] * (grid.shape[2] - 1)
        affine[:3, 2] *= -1
        written = Grid(grid.shape, affine)
    with tempfile.TemporaryDirectory() as folder:
        write_series(Path(folder), array[..., ::-1] if flipped else array, written, number=1)
        volume, series = read_series(Path(folder), case="it")
    assert volume.grid.matches(grid, tolerance_voxels=1e-3)
    np.testing.assert_array_equal(volume.array, array)
    assert len(series.headers) == grid.shape[2]


def test_it_agrees_with_itk(scan_and_series):
    volume, series = scan_and_series
    folder = str(Path(series.headers[0].filename).parent)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder))
    np.testing.assert_allclose(affine_from_itk(image), volume.grid.affine, atol=1e-3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, volume.array)


@pytest.fixture
def folder(tmp_path):
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    write_series(tmp_path, np.zeros((4, 5, 6)), Grid((4, 5, 6), affine), number=1)
    return tmp_path


def change(path, **values):
    header = pydicom.dcmread(path)
    for word, value in values.items():
        if value is None:
            delattr(header, word)
        else:
            setattr(header, word, value)
    header.save_as(path)


def refused(folder):
    with pytest.raises(ScanError) as told:
        read_headers(folder, case="a series")
    assert "'a series'" in str(told.value)
    return str(told.value)


def test_a_missing_slice_is_told(folder):
    (folder / "003.dcm").unlink()
    assert "not evenly spaced (2.00 to 4.00 mm apart)" in refused(folder)


def test_slices_given_twice_as_in_a_time_series_are_told(folder):
    change(folder / "003.dcm", ImagePositionPatient=pydicom.dcmread(folder / "002.dcm")[
        "ImagePositionPatient"
    ].value)  # fmt: skip
    assert "doubled, as in a time series" in refused(folder)


def test_a_localizer_in_the_series_is_told(folder):
    change(folder / "003.dcm", ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    assert "localizers" in refused(folder)


def test_slices_of_another_size_are_told(folder):
    change(folder / "003.dcm", PixelSpacing=[2.0, 2.0])
    assert "different size" in refused(folder)


def test_gantry_tilt_is_told(folder):
    for number in range(6):
        change(folder / f"{number:03d}.dcm", ImagePositionPatient=[0.5 * number, 0, 2.0 * number])
    assert "gantry tilt" in refused(folder)


def test_an_image_without_a_place_is_told(folder):
    change(folder / "003.dcm", ImagePositionPatient=None)
    assert "ImagePositionPatient missing" in refused(folder)


def test_an_enhanced_image_is_told(folder):
    for number in range(1, 6):
        (folder / f"{number:03d}.dcm").unlink()
    change(folder / "000.dcm", NumberOfFrames=6)
    assert "multi-frame" in refused(folder)


def test_damaged_files_are_told(folder):
    (folder / "003.dcm").write_bytes(b"no DICOM")
    assert "damaged" in refused(folder)


def test_damaged_pixels_are_told(folder):
    raw = (folder / "003.dcm").read_bytes()
    (folder / "003.dcm").write_bytes(raw[:-20])
    with pytest.raises(ScanError, match="pixels of series 'a series'"):
        read_series(folder, case="a series")


def test_an_empty_folder_is_told(tmp_path):
    assert "no images" in refused(tmp_path)


def test_a_single_slice_is_a_volume_of_one(folder):
    for number in range(1, 6):
        (folder / f"{number:03d}.dcm").unlink()
    assert read_headers(folder, case="it").grid.spacing_mm == (1.0, 1.0, 2.0)
