"""The demo's brains as DICOM: oblique MR series with thick slices, as scanners make them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy import ndimage

from uncol.data.grid import LPS_TO_RAS, Grid
from uncol.data.scan import write_volume
from uncol.demo.pool import BRAIN_LABELS, make_case
from uncol.types import Array

TURN_DEG = (12.0, -8.0, 5.0)  # about the patient's axes
SERIES_SPACING_MM = (1.8, 1.8, 4.0)


def make_series_pool(folder: Path, truth: Path, *, cases: int, seed: int) -> str:
    """Write DICOM series and their labels.

    Args:
        folder: gets one folder of `.dcm` files per case.
        truth: gets the labels, `<SeriesInstanceUID>.nii.gz`, in the series' grid.
        cases: how many.
        seed: the same seed gives the same anatomy; identifiers are always new.

    Returns:
        The labels as the app's `labels` setting wants them.
    """
    truth.mkdir(parents=True, exist_ok=True)
    for number in range(1, cases + 1):
        scan, label, grid = make_case(np.random.default_rng([seed, number]))
        turned = _oblique(grid)
        image = _moved(scan, grid, turned, order=1)
        uid = write_series(folder / f"brain_{number:03d}", image, turned, number=number)
        drawn = _moved(label, grid, turned, order=0).astype(np.uint8)
        write_volume(truth / f"{uid}.nii.gz", drawn, turned)
    return ",".join(BRAIN_LABELS)


def write_series(folder: Path, image: Array, grid: Grid, *, number: int) -> str:
    """Write an MR series of single-frame images; returns its SeriesInstanceUID.

    Args:
        folder: made if missing.
        image: `(I, J, K)`, values that int16 can hold.
        grid: its grid, with orthogonal axes.
        number: the patient's number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uids = {
        word: generate_uid()
        for word in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    }
    lps = LPS_TO_RAS @ grid.affine
    spacing = grid.spacing_mm
    directions = lps[:3, :3] / np.array(spacing)
    for slice_number in range(grid.shape[2]):
        header = _header(number, slice_number, uids)
        header.Rows, header.Columns = grid.shape[1], grid.shape[0]
        header.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
        header.SliceThickness = header.SpacingBetweenSlices = _decimal(spacing[2])
        header.ImageOrientationPatient = [_decimal(v) for v in directions[:, :2].T.ravel()]
        position = apply_affine(lps, [0, 0, slice_number])
        header.ImagePositionPatient = [_decimal(v) for v in position]
        header.PixelData = image[..., slice_number].T.round().astype("<i2").tobytes()
        header.save_as(folder / f"{slice_number:03d}.dcm", write_like_original=False)
    return str(uids["SeriesInstanceUID"])


def _oblique(grid: Grid) -> Grid:
    """Return a turned grid with thick slices around the same middle."""
    turn = np.eye(3)
    for axis, degrees in enumerate(TURN_DEG):
        angle = np.deg2rad(degrees)
        first, second = [other for other in range(3) if other != axis]
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    extent = np.array(grid.shape) * grid.spacing_mm
    i, j, k = (
        int(np.ceil(length / size)) for length, size in zip(extent, SERIES_SPACING_MM, strict=True)
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(
        [-SERIES_SPACING_MM[0], -SERIES_SPACING_MM[1], SERIES_SPACING_MM[2]]
    )
    middle = apply_affine(grid.affine, (np.array(grid.shape) - 1) / 2)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array([i, j, k]) - 1) / 2)
    return Grid((i, j, k), affine)


def _moved(array: Array, grid: Grid, to: Grid, *, order: int) -> Array:
    to_voxel = np.linalg.inv(grid.affine) @ to.affine
    return np.asarray(
        ndimage.affine_transform(array, to_voxel, output_shape=to.shape, order=order, cval=0)
    )


def _header(number: int, slice_number: int, uids: Mapping[str, str]) -> Dataset:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.is_little_endian, header.is_implicit_VR = True, False
    header.SOPClassUID = MRImageStorage
    header.SOPInstanceUID = generate_uid()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    for word, value in uids.items():
        setattr(header, word, value)
    today = datetime.date.today().strftime("%Y%m%d")
    header.StudyDate = header.SeriesDate = header.ContentDate = today
    header.StudyTime = header.SeriesTime = header.ContentTime = f"{8 + number // 60:02d}0000"
    header.PatientName, header.PatientID = f"Brain^{number:03d}", f"BRAIN{number:03d}"
    header.PatientBirthDate = header.PatientSex = header.ReferringPhysicianName = ""
    header.StudyID, header.AccessionNumber = str(number), f"A{number:03d}"
    header.Modality, header.SeriesNumber = "MR", 1
    header.StudyDescription = "Made of the MNI152 template"
    header.SeriesDescription = "T1 oblique"
    header.Manufacturer = "none"
    header.PositionReferenceIndicator = header.Laterality = ""
    header.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "GR", "NONE", ""
    header.MRAcquisitionType, header.EchoTime, header.RepetitionTime = "2D", "5", "500"
    header.EchoTrainLength = "1"
    header.InstanceNumber = slice_number + 1
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelRepresentation = 1
    header.WindowCenter, header.WindowWidth = "250", "500"
    return header


def _decimal(value: float) -> str:
    """Return a number as DICOM's decimal string of at most 16 characters."""
    return f"{value:.10f}"[:16]
