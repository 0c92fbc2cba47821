"""Read and write scans and label maps, or refuse them with the reason."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from uncol.data.grid import Grid, Volume, to_itk
from uncol.data.imagefile import (
    DAMAGED,
    NIFTI,
    Header,
    UnsupportedError,
    file_extension,
    read_header,
    read_values,
)
from uncol.errors import LabelError, ScanError, StorageError, UncolError, why
from uncol.types import Array

POSSIBLE_SPACING_MM = (1e-3, 100.0)  # the range that scanners produce


def read_scan(path: str | Path, *, case: str | None = None) -> Volume:
    """Read a scan as float32 and check that it can be used.

    Args:
        path: NIfTI, NRRD, MetaImage, PNG, JPEG, TIFF, or whatever SimpleITK reads.
        case: the case's name for messages; the file's name if not given.

    Raises:
        ScanError: the file is missing, damaged, not 2D or 3D, has NaN or infinite voxels, or is
            empty (a single value everywhere).
    """
    name = case or Path(path).name
    volume = _read(Path(path), name, ScanError, "scan")
    array = np.asarray(volume.array, dtype=np.float32)
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise ScanError(
            f"Scan of case '{name}' has {bad} voxels that are NaN or infinite ({path}). "
            "Export it again from its source, or replace these voxels, and put the file back."
        )
    if array.size == 0 or array.min() == array.max():
        raise ScanError(
            f"Scan of case '{name}' is empty: every voxel has the same value ({path}). "
            "Export it again from its source, or take it out of the studies folder."
        )
    return Volume(array, volume.grid)


def read_grid(path: str | Path, *, case: str) -> Grid:
    """Read a scan's grid without its voxels.

    Raises:
        ScanError: the file is missing, damaged, not 2D or 3D, or of absurd size.
    """
    return _grid(Path(path), case, ScanError, "scan")


def read_label(path: str | Path, *, case: str | None = None) -> Volume:
    """Read a label map as int32.

    Raises:
        LabelError: the file is missing, damaged, or its values are not whole numbers.
    """
    name = case or Path(path).name
    volume = _read(Path(path), name, LabelError, "label")
    rounded = np.rint(volume.array)
    if not np.isfinite(volume.array).all() or not np.array_equal(rounded, volume.array):
        raise LabelError(
            f"Label of case '{name}' has values that are not whole numbers ({path}). "
            "Export it as a label map (segmentation), not as a probability or grey-value image."
        )
    return Volume(rounded.astype(np.int32), volume.grid)


def read_map(path: str | Path, *, case: str) -> Array:
    """Read a map of values, `(I, J, K)` float32, that this app wrote.

    Raises:
        ScanError: the file is missing or damaged.
    """
    return np.asarray(_read(Path(path), case, ScanError, "map").array, dtype=np.float32)


def write_volume(path: str | Path, array: Array, grid: Grid, *, compress: bool = True) -> None:
    """Write a volume in the format of the path's extension.

    Args:
        path: `.nii`, `.nii.gz` through nibabel; anything else through SimpleITK.
        array: `(I, J, K)`, uint8 for labels or float32 for maps.
        grid: the grid the array lies in; written as it is.
        compress: whether NRRD and the like are compressed (OHIF asks for raw voxels).

    Raises:
        StorageError: the file could not be written.
    """
    try:
        if file_extension(path) in NIFTI:
            image = nib.Nifti1Image(array, grid.affine)
            image.set_sform(grid.affine, code=1)
            image.set_qform(grid.affine, code=1)  # all programs read the same place then
            image.header.set_xyzt_units("mm")
            nib.save(image, str(path))
        else:
            sitk.WriteImage(to_itk(array, grid), str(path), useCompression=compress)
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"Could not write {path}: {why(error)}. Free some disk space or check the permissions."
        ) from error


def as_one_file(path: Path, folder: Path, *, case: str) -> Path:
    """Return a scan's file; of a header whose voxels lie beside it, a copy that holds both.

    Args:
        path: the scan's file.
        folder: where a copy may be written.
        case: the case's name for messages.

    Raises:
        ScanError: it cannot be read.
        StorageError: the copy cannot be written.
    """
    if file_extension(path) not in (".nhdr", ".mhd"):
        return path
    scan = read_scan(path, case=case)
    copy = folder / "scan.nrrd"
    write_volume(copy, scan.array, scan.grid)
    return copy


def check_size(path: Path, name: str, error_class: type[UncolError], kind: str) -> None:
    """Refuse a file by its header alone, before its voxels fill the memory.

    Args:
        path: the file.
        name: the case, for messages.
        error_class: raised if the file is missing, damaged or too large.
        kind: `scan` or `label`, for messages.
    """
    _stated(path, name, error_class, kind)


def damaged(kind: str, name: str, path: Path, error: Exception) -> str:
    """Return the message for a file that cannot be read."""
    if isinstance(error, UnsupportedError):
        return f"The {kind} of case '{name}' cannot be used ({path}): {why(error)}."
    reason = " ".join((str(error) or type(error).__name__).split())[:200]
    return (
        f"The {kind} of case '{name}' is damaged or not an image ({path}): {reason}. "
        "Copy or export the file again."
    )


def may_pass(error: UncolError) -> bool:
    """Say whether the disk or the machine kept a file from being read, and not the file."""
    return isinstance(error.__cause__, MemoryError) or bool(getattr(error.__cause__, "errno", 0))


def _read(path: Path, name: str, error_class: type[UncolError], kind: str) -> Volume:
    grid = _grid(path, name, error_class, kind)  # before a header's false size fills the memory
    try:
        array = read_values(path, label=kind == "label")
    except DAMAGED as error:
        raise error_class(damaged(kind, name, path, error)) from error
    shape = array.shape
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise error_class(
            f"The {kind} of case '{name}' has shape {shape} ({path}); uncol reads one 2D or 3D "
            "image per file. Split a time series or a multi-channel file into single volumes."
        )
    size_i, size_j, size_k = array.shape
    return Volume(array, Grid((size_i, size_j, size_k), grid.affine, grid.sizes_mm))


def _grid(path: Path, name: str, error_class: type[UncolError], kind: str) -> Grid:
    grid = _stated(path, name, error_class, kind).grid
    least, most = POSSIBLE_SPACING_MM
    if not all(least <= size <= most for size in grid.spacing_mm):
        listed = " x ".join(f"{size:g}" for size in grid.spacing_mm)
        raise error_class(
            f"The {kind} of case '{name}' says its voxels measure {listed} mm ({path}); between "
            f"{least:g} and {most:g} mm is possible. Export it with its true voxel size."
        )
    return grid


def _stated(path: Path, name: str, error_class: type[UncolError], kind: str) -> Header:
    """Return what a file's header states."""
    try:
        with path.open("rb"):  # else the libraries call whatever is wrong "damaged"
            pass
    except FileNotFoundError as error:
        link = f" (a link to {path.readlink()}, which is not there)" if path.is_symlink() else ""
        raise error_class(f"The {kind} file of case '{name}' is missing: {path}{link}.") from error
    except OSError as error:
        raise error_class(
            f"The {kind} file of case '{name}' cannot be read: {path}: {error.strerror}."
        ) from error
    try:
        return read_header(path)
    except DAMAGED as error:
        raise error_class(damaged(kind, name, path, error)) from error
