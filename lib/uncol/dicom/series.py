"""A DICOM series as a volume, with what is needed to write results that refer to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.pixel_data_handlers.util import apply_modality_lut
from pydicom.uid import RLELossless

from uncol.data.grid import LPS_TO_RAS, Grid, Volume
from uncol.data.imagefile import MAX_VOXELS
from uncol.data.scan import POSSIBLE_SPACING_MM
from uncol.dicom.odd import ODD
from uncol.errors import ScanError, why
from uncol.types import Array

UNEVEN = 0.02  # share of the slice distance by which slices may lie unevenly
SKEW = 0.01  # share of the slice distance by which slices may be shifted against each other

MOST_ALONG_AN_AXIS = 32767  # NIfTI, which mirrors a series, holds no more
FARTHEST_MM = 1e5  # from the origin
PLACING = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
# what a result takes over, and anonymizers remove: type 2, so they may be empty
MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate"),
    *("StudyTime", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)


@dataclass(frozen=True)
class Series:
    """The slices of a series in the order of the volume's last axis, without their pixels.

    Attributes:
        headers: one data set per slice.
        grid: where the voxels lie; I runs along a row, J along a column, K through the slices.
    """

    headers: tuple[Dataset, ...]
    grid: Grid

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return str(self.headers[0].SeriesInstanceUID)

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID."""
        return str(self.headers[0].StudyInstanceUID)


def open_series(headers: Sequence[Dataset], *, case: str) -> Series:
    """Put the slices of a series in order and work out its grid.

    Args:
        headers: one data set per slice, in any order.
        case: the case's name for messages.

    Raises:
        ScanError: the slices do not make up one evenly spaced volume.
    """
    try:
        return _ordered(headers, case)
    except ODD as error:
        raise ScanError(
            f"The headers of series '{case}' do not say where its slices lie: {why(error)}. It "
            "is left out."
        ) from error


def _ordered(headers: Sequence[Dataset], case: str) -> Series:
    _check_slices(headers, case)
    first = headers[0]
    directions = np.array([header.ImageOrientationPatient for header in headers], dtype=float)
    sizes = {(header.Rows, header.Columns, *map(float, header.PixelSpacing)) for header in headers}
    if len(sizes) > 1 or np.abs(directions - directions[0]).max() > 1e-3:
        raise ScanError(
            f"Series '{case}' mixes slices of different size or direction, as localizers do; "
            "it is left out."
        )
    along_row, along_column = directions[0][:3], directions[0][3:]
    normal = np.cross(along_row, along_column)
    positions = np.array([header.ImagePositionPatient for header in headers], dtype=float)
    _check_numbers(first, directions[0], normal, positions, case)
    heights = positions @ normal
    order = np.argsort(heights)
    step = _step(positions[order], heights[order], first, normal, case)
    down, right = (float(size) for size in first.PixelSpacing)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = along_row * right, along_column * down, step
    lps[:3, 3] = positions[order[0]]
    grid = Grid((int(first.Columns), int(first.Rows), len(headers)), LPS_TO_RAS @ lps)
    for header in headers:
        _complete(header)
    return Series(tuple(headers[place] for place in order), grid)


def _complete(header: Dataset) -> None:
    """Give a header what results refer to and what anonymizers remove."""
    for word in MAY_BE_EMPTY:
        if word not in header:
            setattr(header, word, None)
    if not header.get("FrameOfReferenceUID"):  # the same one for all results of the series
        of_series = str(header.SeriesInstanceUID)
        header.FrameOfReferenceUID = pydicom.uid.generate_uid(entropy_srcs=[of_series])


def _check_slices(headers: Sequence[Dataset], case: str) -> None:
    """Refuse headers that are not a stack of single slices.

    Raises:
        ScanError: it is one multi-frame image, or a header lacks what places its slice.
    """
    if len(headers) == 1 and int(headers[0].get("NumberOfFrames", 1)) > 1:
        raise ScanError(
            f"Series '{case}' is one enhanced multi-frame image, which uncol cannot use yet. "
            "Convert it to single-frame images, or to NIfTI in a studies folder."
        )
    for header in headers:
        missing = [word for word in PLACING if header.get(word) is None]
        if missing:
            raise ScanError(
                f"Series '{case}' is not a stack of slices: {', '.join(missing)} missing."
            )


def _check_numbers(
    first: Dataset, directions: Array, normal: Array, positions: Array, case: str
) -> None:
    """Refuse sizes and places that no scanner produces.

    Raises:
        ScanError: there are such.
    """
    spacing = np.array([float(size) for size in first.PixelSpacing])
    least, most = POSSIBLE_SPACING_MM
    sound = {
        "PixelSpacing": spacing.shape == (2,)
        and bool(((spacing >= least) & (spacing <= most)).all()),
        "ImageOrientationPatient": directions.shape == (6,)
        and bool(np.isclose(np.linalg.norm(normal), 1.0, atol=1e-2)),
        "ImagePositionPatient": positions.shape[1:] == (3,)
        and bool((np.abs(positions) < FARTHEST_MM).all()),
        "Rows and Columns": max(int(first.Rows), int(first.Columns)) <= MOST_ALONG_AN_AXIS
        and 0 < int(first.Rows) * int(first.Columns) * len(positions) <= MAX_VOXELS,
    }
    wrong = [word for word, right in sound.items() if not right]
    if wrong:
        raise ScanError(
            f"Series '{case}' has impossible values in {', '.join(wrong)}; it is left out."
        )


def read_headers(folder: Path, *, case: str) -> Series:
    """Read the stored headers of a series.

    Raises:
        ScanError: a file is damaged, or the slices do not make up a volume.
    """
    try:
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.glob("*.dcm")]
    except (*ODD, OSError) as error:
        raise ScanError(f"The DICOM files of series '{case}' are damaged: {why(error)}.") from error
    if not headers:
        raise ScanError(f"Series '{case}' has no images in {folder}.")
    return open_series(headers, case=case)


def read_series(folder: Path, *, case: str) -> tuple[Volume, Series]:
    """Read a series with its pixels, in stored units (HU for CT).

    Args:
        folder: holds the series' files, `*.dcm`, and no others.
        case: the case's name for messages.

    Returns:
        `(I, J, K)` float32 in the series' grid, and the series.

    Raises:
        ScanError: a file is damaged, or the slices do not make up a volume.
    """
    series = read_headers(folder, case=case)
    _check_lengths(series.headers, case)
    array = np.empty(series.grid.shape, dtype=np.float32)
    for number, header in enumerate(series.headers):
        array[..., number] = _slice(str(header.filename), array.shape[:2], case)
    return Volume(array, series.grid), series


def _slice(file: str, shape: tuple[int, ...], case: str) -> Array:
    """Return the pixels of one image, `(I, J)`, with its own rescale slope and intercept."""
    try:
        one = pydicom.dcmread(file)
        if int(one.get("SamplesPerPixel", 1)) != 1:
            raise ScanError(f"Series '{case}' is not in grey values.")
        pixels = _values(one, file).T
    except (*ODD, OSError) as error:
        reason = " ".join(str(error).split())[-200:]
        raise ScanError(f"The pixels of series '{case}' cannot be read: {reason}") from error
    if pixels.size != shape[0] * shape[1]:
        raise ScanError(f"Series '{case}' has images of several frames, or of other sizes.")
    return np.asarray(pixels.reshape(shape))


def _values(one: Dataset, file: str) -> Array:
    """Return an image's values, stored x slope + intercept (PS3.3 C.11.1)."""
    syntax = one.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax == RLELossless:
        return np.asarray(apply_modality_lut(one.pixel_array, one))
    if one.get("PhotometricInterpretation") == "MONOCHROME1":  # GDCM would turn its values over
        raise ValueError(f"MONOCHROME1 packed as {syntax.name}; store it unpacked")
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(file)))  # GDCM unpacks all


def _check_lengths(headers: Sequence[Dataset], case: str) -> None:
    """Refuse images that say they have more pixels than they hold: readers would invent the rest.

    Raises:
        ScanError: there are such.
    """
    for header in headers:
        stated = int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8
        packed = header.file_meta.TransferSyntaxUID.is_compressed
        if not packed and Path(str(header.filename)).stat().st_size < stated:
            raise ScanError(
                f"An image of series '{case}' holds fewer pixels than it says; it is damaged."
            )


def _step(positions: Array, heights: Array, first: Dataset, normal: Array, case: str) -> Array:
    """Return the vector from slice to slice in LPS mm."""
    if len(positions) == 1:
        return normal * float(first.get("SliceThickness") or 1.0)
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    if usual <= 0 or np.abs(gaps - usual).max() > UNEVEN * usual:
        raise ScanError(
            f"The slices of series '{case}' are not evenly spaced ({gaps.min():.2f} to "
            f"{gaps.max():.2f} mm apart): slices are missing or doubled, as in a time series. "
            "It is left out."
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    if np.linalg.norm(step - normal * (step @ normal)) > SKEW * usual:
        raise ScanError(
            f"The slices of series '{case}' are shifted against each other (gantry tilt). Resample "
            "it to straight slices first."
        )
    return np.asarray(step)
