"""Read and write scans and label maps as arrays with a grid."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import Opener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from uncol.errors import LabelError, ScanError, StorageError, UncolError
from uncol.types import Array

NIFTI = (".nii", ".nii.gz")
# what nibabel and SimpleITK raise on a damaged file; MemoryError from absurd sizes in its header
DAMAGED = (
    *(OSError, EOFError, ValueError, RuntimeError, MemoryError, zlib.error),
    *(ImageFileError, WrapStructError, HeaderDataError),
)
# ITK keeps physical space in LPS+, we (and nibabel) in RAS+.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_VOXELS = 2**29  # 512 x 512 x 2048; read as float32 that is 2 GiB
MAX_BYTES = 2**32  # of all voxels as stored
MAX_OFFSET = 2**24  # bytes before a NIfTI's voxels
POSSIBLE_SPACING_MM = (1e-3, 100.0)  # the range that scanners produce
RGB_TO_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601 luma


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie.

    Attributes:
        shape: `(I, J, K)` voxels in file order; a 2D image has `K = 1`.
        affine: `(4, 4)`, voxel index to millimetres in RAS+.
    """

    shape: tuple[int, int, int]
    affine: Array

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along I, J, K in mm."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(sizes[0]), float(sizes[1]), float(sizes[2]))

    def matches(self, other: Grid, *, tolerance_voxels: float = 0.1) -> bool:
        """Return whether both grids put every voxel at the same place, within the tolerance."""
        if self.shape != other.shape:
            return False
        corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)]).T
        corners[:3] *= (np.array(self.shape) - 1)[:, None]
        gap_mm = np.abs((self.affine - other.affine) @ corners)[:3].max()
        return bool(gap_mm <= tolerance_voxels * min(self.spacing_mm))


@dataclass(frozen=True)
class Volume:
    """An array with its grid.

    Attributes:
        array: `(I, J, K)`; a 2D image has `K = 1`, colour images are turned to grey.
        grid: where the voxels lie.
    """

    array: Array
    grid: Grid


def file_extension(path: str | Path) -> str:
    """Return `.nii.gz`, `.seg.nrrd` or the last suffix, in lower case."""
    name = Path(path).name.lower()
    for double in (".nii.gz", ".seg.nrrd"):
        if name.endswith(double):
            return double
    return Path(name).suffix


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
            image.header.set_xyzt_units("mm")
            nib.save(image, str(path))
        else:
            sitk.WriteImage(_to_itk(array, grid), str(path), useCompression=compress)
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"Could not write {path}: {error}. Free some disk space or check the permissions."
        ) from error


def resample_nearest(volume: Volume, grid: Grid) -> Array:
    """Return a label map or mask resampled to another grid, `grid.shape`; 0 outside its own."""
    reference = sitk.Image(list(grid.shape), sitk.sitkUInt8)
    _place(reference, grid)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T))
    _place(image, volume.grid)
    moved = sitk.Resample(image, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return np.ascontiguousarray(sitk.GetArrayFromImage(moved).T)


def _read(path: Path, name: str, error_class: type[UncolError], kind: str) -> Volume:
    _grid(path, name, error_class, kind)  # checked before a header's false size fills the memory
    try:
        nifti = file_extension(path) in NIFTI
        array, affine = _read_nifti(path) if nifti else _read_itk(path)
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
    return Volume(array, Grid((size_i, size_j, size_k), affine))


def _grid(path: Path, name: str, error_class: type[UncolError], kind: str) -> Grid:
    shape, affine = _stated(path, name, error_class, kind)
    sizes = [int(size) for size in (*shape, 1)[:3]]
    grid = Grid((sizes[0], sizes[1], sizes[2]), affine)
    least, most = POSSIBLE_SPACING_MM
    if not all(least <= size <= most for size in grid.spacing_mm):
        listed = " x ".join(f"{size:g}" for size in grid.spacing_mm)
        raise error_class(
            f"The {kind} of case '{name}' says its voxels measure {listed} mm ({path}); between "
            f"{least:g} and {most:g} mm is possible. Export it with its true voxel size."
        )
    return grid


def check_size(path: Path, name: str, error_class: type[UncolError], kind: str) -> None:
    """Refuse a file by its header alone, before its voxels fill the memory.

    Args:
        path: the file.
        name: the case, for messages.
        error_class: raised if the file is missing, damaged or too large.
        kind: `scan` or `label`, for messages.
    """
    _stated(path, name, error_class, kind)


def _stated(
    path: Path, name: str, error_class: type[UncolError], kind: str
) -> tuple[Sequence[int], Array]:
    """Return the shape and affine that a file's header states."""
    if not path.is_file():
        raise error_class(f"The {kind} file of case '{name}' is missing: {path}.")
    try:
        if file_extension(path) in NIFTI:
            _check_offset(path)
            image = nib.load(str(path))
            shape, affine = image.shape, np.asarray(image.affine, dtype=np.float64)
            components, value_bytes = 1, image.get_data_dtype().itemsize
        else:
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            shape, affine = reader.GetSize(), affine_from_itk(reader)
            components, value_bytes = reader.GetNumberOfComponents(), 1
    except DAMAGED as error:
        raise error_class(damaged(kind, name, path, error)) from error
    values = math.prod(int(size) for size in shape) * components
    if values > MAX_VOXELS or values * value_bytes > MAX_BYTES:
        raise error_class(
            f"The {kind} of case '{name}' says it has {_by(shape)} voxels with {components} "
            f"values of {value_bytes} bytes each ({path}); at most {MAX_VOXELS:,} values and "
            f"{MAX_BYTES:,} bytes are read. Crop or resample it, or export it again."
        )
    return shape, affine


def _check_offset(path: Path) -> None:
    """Refuse a header whose extension alone would fill the memory; nibabel reads all of it."""
    with Opener(str(path)) as stream:
        block = stream.read(nib.Nifti2Header.template_dtype.itemsize)
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        size = kind.template_dtype.itemsize
        if len(block) >= size:
            header = kind(block[:size], check=False)
            if int(header["sizeof_hdr"]) == size and float(header["vox_offset"]) > MAX_OFFSET:
                raise ValueError("its header extension is larger than any real one")


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(int(size)) for size in shape)


def damaged(kind: str, name: str, path: Path, error: Exception) -> str:
    """Return the message for a file that cannot be read."""
    reason = " ".join((str(error) or type(error).__name__).split())[:200]
    return (
        f"The {kind} of case '{name}' is damaged or not an image ({path}): {reason}. "
        "Copy or export the file again."
    )


def _read_nifti(path: Path) -> tuple[Array, Array]:
    image = nib.load(str(path))
    if not isinstance(image, (nib.Nifti1Image, nib.Nifti2Image)):
        raise ImageFileError("not a NIfTI file")
    if image.get_data_dtype().fields is not None:
        raise ValueError("colour (RGB) NIfTI is not supported")
    if image.get_data_dtype().kind == "c":
        raise ValueError("its values are complex numbers")
    array = np.asanyarray(image.dataobj)
    return array, np.asarray(image.affine, dtype=np.float64)


def _read_itk(path: Path) -> tuple[Array, Array]:
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)  # (K, J, I) or (J, I), colour last
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = _grey(array)
    return np.ascontiguousarray(array.T), affine_from_itk(image)


def _grey(array: Array) -> Array:
    channels = array.shape[-1]
    if channels in (3, 4):  # a fourth one is alpha
        return np.asarray(array[..., :3].astype(np.float32) @ RGB_TO_GREY)
    if channels == 2:
        return np.asarray(array[..., 0])
    raise ValueError(f"{channels} channels per voxel; uncol reads grey or RGB images")


def affine_from_itk(image: sitk.Image | sitk.ImageFileReader) -> Array:
    """Return the affine from voxel index to RAS mm of an ITK image."""
    dims = image.GetDimension()
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dims, dims)[:3, :3]
    spatial = min(dims, 3)
    affine[:spatial, :spatial] = direction * np.array(image.GetSpacing())[:spatial]
    affine[:spatial, 3] = np.array(image.GetOrigin())[:spatial]
    return LPS_TO_RAS @ affine


def _to_itk(array: Array, grid: Grid) -> sitk.Image:
    lps = LPS_TO_RAS @ grid.affine
    spacing = np.array(grid.spacing_mm)
    flat = grid.shape[2] == 1 and np.allclose(lps[:3, 2], [0, 0, lps[2, 2]]) and lps[2, 3] == 0
    if flat and np.allclose(lps[2, :2], 0):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array[..., 0].T))
        image.SetSpacing(spacing[:2].tolist())
        image.SetOrigin(lps[:2, 3].tolist())
        image.SetDirection((lps[:2, :2] / spacing[:2]).ravel().tolist())
        return image
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    _place(image, grid)
    return image


def _place(image: sitk.Image, grid: Grid) -> None:
    lps = LPS_TO_RAS @ grid.affine
    spacing = np.array(grid.spacing_mm)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
