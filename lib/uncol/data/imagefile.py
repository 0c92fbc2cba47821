"""Image files as arrays: NIfTI through nibabel, pictures through Pillow, the rest through ITK.

Where the voxels of a NIfTI file lie is read by ITK, as 3D Slicer and ITK-SNAP do: nibabel reads
some headers another way (sform and qform that differ, both codes 0, units other than mm), and a
label drawn in a viewer would then lie elsewhere.
"""

from __future__ import annotations

import math
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import Opener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from PIL import Image, UnidentifiedImageError

from uncol.data.grid import LPS_TO_RAS, Grid, affine_from_itk
from uncol.types import Array

READ_AS = 2  # how files are read; a step up makes all outdated that was kept of them
NIFTI = (".nii", ".nii.gz")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")  # of pixels without a size of their own
COLOURED = (*PICTURES, ".tif", ".tiff")
# what the libraries raise on a damaged file; MemoryError from absurd sizes in its header
DAMAGED = (
    *(OSError, EOFError, ValueError, RuntimeError, MemoryError, SyntaxError, zlib.error),
    *(ImageFileError, WrapStructError, HeaderDataError, UnidentifiedImageError),
)
MAX_VOXELS = 2**29  # 512 x 512 x 2048; read as float32 that is 2 GiB
MAX_BYTES = 2**32  # of all voxels as stored
NRRD_HEAD = 2**16  # bytes in which a NRRD file's header ends
MAX_OFFSET = 2**24  # bytes before a NIfTI's voxels
RGB_TO_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601 luma
COLOUR = "it is a colour picture; save the mask in grey values"

sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK's notes on headers that we tell ourselves
Image.MAX_IMAGE_PIXELS = None  # `Header.check` limits all formats alike


class UnsupportedError(ValueError):
    """A file is whole, and holds something that uncol does not read; the message says what."""


@dataclass(frozen=True)
class Header:
    """What a file's header states.

    Attributes:
        shape: sizes of all axes, the spatial ones first.
        affine: `(4, 4)`, voxel index to millimetres in RAS+.
        sizes_mm: voxel size, where the affine has another one: of a NIfTI file whose units or
            pixdim contradict its sform, the numbers in the sform are taken for mm.
        components: values per voxel.
        value_bytes: bytes per value.
    """

    shape: tuple[int, ...]
    affine: Array
    sizes_mm: tuple[float, float, float] | None = None
    components: int = 1
    value_bytes: int = 1

    @property
    def grid(self) -> Grid:
        """Where the first three axes lie."""
        size_i, size_j, size_k = (int(size) for size in (*self.shape, 1)[:3])
        return Grid((size_i, size_j, size_k), self.affine, self.sizes_mm)

    def check(self) -> None:
        """Refuse a file by its header alone, before its voxels fill the memory.

        Raises:
            UnsupportedError: it is too large.
        """
        values = math.prod(self.shape) * self.components
        if values > MAX_VOXELS or values * self.value_bytes > MAX_BYTES:
            raise UnsupportedError(
                f"it says it has {by(self.shape)} voxels with {self.components} values of "
                f"{self.value_bytes} bytes each; at most {MAX_VOXELS:,} values and "
                f"{MAX_BYTES:,} bytes are read. Crop or resample it, or export it again"
            )


def file_extension(path: str | Path) -> str:
    """Return `.nii.gz`, `.seg.nrrd` or the last suffix, in lower case."""
    name = Path(path).name.lower()
    for double in (".nii.gz", ".seg.nrrd"):
        if name.endswith(double):
            return double
    return Path(name).suffix


def is_picture(path: str | Path) -> bool:
    """Say whether a file's pixels have no size: whatever its resolution says, they count as 1 mm.

    Programs write 72, 96 or 300 dots per inch into the same picture.
    """
    return file_extension(path) in COLOURED


def read_header(path: Path) -> Header:
    """Read a file's header and check it.

    Raises:
        UnsupportedError: it holds something that uncol does not read.
        `DAMAGED`: it is no image, or damaged.
    """
    with _plainly_named(path) as plain:
        header = _header(plain)
    header.check()
    if header.components > 1 and file_extension(path) not in (*COLOURED, ".seg.nrrd"):
        raise UnsupportedError(
            f"it has {header.components} values per voxel. Split channels, echoes or time points "
            "into single volumes"
        )
    return header


def read_values(path: Path, *, label: bool) -> Array:
    """Read a file's voxels, `(I, J)`, `(I, J, K)`, or with more axes.

    Args:
        path: the file.
        label: whether values are labels: then colours are refused, and a 1-bit mask is 0 and 1. In
            a scan, colours are turned to grey.

    Raises:
        UnsupportedError: it holds something that uncol does not read.
        `DAMAGED`: it is damaged.
    """
    with _plainly_named(path) as plain:
        return _values(plain, label=label)


def _values(path: Path, *, label: bool) -> Array:
    extension = file_extension(path)
    if extension in NIFTI:
        return np.asanyarray(_nifti(path).dataobj)
    if extension in PICTURES:
        return _picture(path, label=label)
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)  # (K, J, I) or (J, I), colour last
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = _grey(array, label=label)
    return np.ascontiguousarray(array.T)


def doubt(path: Path) -> str:
    """Say what is unclear in a file's header about where its voxels lie; empty if nothing is."""
    if file_extension(path) not in NIFTI:
        return ""
    with _plainly_named(path) as plain:
        image, header = _nifti(plain), _header(plain)
    other = Grid(header.grid.shape, np.asarray(image.affine, dtype=np.float64))
    if len(header.shape) < 3 or header.grid.matches(other):
        return ""
    codes = [int(image.header[word]) for word in ("sform_code", "qform_code")]
    return (
        f"Its header can be read in two ways (sform code {codes[0]}, qform code {codes[1]}, units "
        f"{image.header.get_xyzt_units()[0]}). It is read as 3D Slicer and ITK-SNAP do."
    )


def by(shape: Sequence[int]) -> str:
    """Return sizes for a message."""
    return " x ".join(str(int(size)) for size in shape)


def _header(path: Path) -> Header:
    extension = file_extension(path)
    if extension in NIFTI:
        image = _nifti(path)
        affine = affine_from_itk(_itk_header(path))
        return Header(
            image.shape,
            affine,
            _other_sizes(image, affine) if len(image.shape) > 2 else None,
            value_bytes=image.get_data_dtype().itemsize,
        )
    if extension in PICTURES:
        with Image.open(path) as picture:
            channels = len(picture.getbands())
            return Header(picture.size, LPS_TO_RAS @ np.eye(4), components=channels)
    reader = _itk_header(path)
    affine = affine_from_itk(reader)
    if is_picture(path):  # a TIFF; a stack of them keeps nothing of its size, either
        affine = LPS_TO_RAS @ np.eye(4)
    _check_encoding(path)
    return Header(reader.GetSize(), affine, components=reader.GetNumberOfComponents())


def _other_sizes(image: nib.Nifti1Image, affine: Array) -> tuple[float, float, float] | None:
    stated, placed = (np.linalg.norm(one[:3, :3], axis=0) for one in (image.affine, affine))
    if np.allclose(stated, placed, rtol=1e-3):
        return None
    return (float(stated[0]), float(stated[1]), float(stated[2]))


def _check_encoding(path: Path) -> None:
    """Refuse a NRRD file that ITK, and so Slicer, cannot unpack; it calls that damaged."""
    if file_extension(path) not in (".nrrd", ".nhdr", ".seg.nrrd"):
        return
    with path.open("rb") as stream:
        head = stream.read(NRRD_HEAD).split(b"\n\n")[0]
    if b"encoding: bz" in head:
        raise UnsupportedError(
            "it is packed with bzip2, which Slicer does not read, either. Use gzip"
        )


def _nifti(path: Path) -> nib.Nifti1Image:
    _check_offset(path)
    image = nib.load(path)
    if not isinstance(image, (nib.Nifti1Image, nib.Nifti2Image)):
        raise ImageFileError("not a NIfTI file")
    if image.get_data_dtype().fields is not None:
        raise UnsupportedError("its voxels are colours (RGB). Save it in grey values")
    if image.get_data_dtype().kind == "c":
        raise UnsupportedError("its values are complex numbers. Save magnitude or phase alone")
    return image


def _itk_header(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise UnsupportedError(
                "its axes do not stand at right angles, which no viewer shows as it is. Resample "
                "it to a straight grid"
            ) from error
        raise
    return reader


def _check_offset(path: Path) -> None:
    """Refuse a header whose extension alone would fill the memory; nibabel reads all of it."""
    with Opener(str(path)) as stream:
        block = stream.read(nib.Nifti2Header.template_dtype.itemsize)
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        size = kind.template_dtype.itemsize
        if len(block) >= size:
            header = kind(block[:size], check=False)
            if int(header["sizeof_hdr"]) == size and float(header["vox_offset"]) > MAX_OFFSET:
                raise UnsupportedError("its header extension is larger than any real one")


def _picture(path: Path, *, label: bool) -> Array:
    with Image.open(path) as picture:
        picture.load()
        bands = picture.getbands()
        if picture.mode == "P":  # a palette: of a label its entries, of a scan its colours
            array = np.asarray(picture if label else picture.convert("RGB"))
        elif picture.mode == "1":
            array = np.asarray(picture, dtype=np.uint8)
        elif picture.mode in ("CMYK", "YCbCr", "HSV", "LAB"):
            array = np.asarray(picture.convert("RGB"))
        else:
            array = np.asarray(picture)
    if array.ndim == 3 and bands[0] in ("L", "I"):
        array = array[..., 0]  # grey with alpha
    if array.ndim == 3:
        array = _grey(array, label=label)
    return np.ascontiguousarray(array.T)


def _grey(array: Array, *, label: bool) -> Array:
    """Return colours, last axis, as grey; a fourth one is alpha."""
    channels = array.shape[-1]
    if channels not in (3, 4):
        raise UnsupportedError(f"it has {channels} channels per voxel; uncol reads grey and RGB")
    colours = array[..., :3]
    if label:
        if (colours != colours[..., :1]).any():
            raise UnsupportedError(COLOUR)
        return np.asarray(colours[..., 0])
    red, green, blue = (colours[..., n].astype(np.float32) * RGB_TO_GREY[n] for n in range(3))
    return np.asarray(red + green + blue)  # term by term: the same on every processor


@contextmanager
def _plainly_named(path: Path) -> Iterator[Path]:
    """Yield a path whose extension the libraries know: theirs are in lower case."""
    extension = file_extension(path)
    if path.name.endswith(extension):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="uncol-name-") as folder:
        link = Path(folder) / f"image{extension}"
        link.symlink_to(path.absolute())
        yield link
