"""Where the voxels of a volume lie, and bringing a label to the grid of its scan."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from uncol.types import Array

# ITK keeps physical space in LPS+, we (and nibabel) in RAS+.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie.

    Attributes:
        shape: `(I, J, K)` voxels in file order; a 2D image has `K = 1`.
        affine: `(4, 4)`, voxel index to millimetres in RAS+, as viewers place the voxels.
        sizes_mm: voxel size along I, J, K, where the file says another one than its affine has;
            None if it does not.
    """

    shape: tuple[int, int, int]
    affine: Array
    sizes_mm: tuple[float, float, float] | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along I, J, K in mm, for all that depends on how large things are."""
        return self.sizes_mm or self.step_mm

    @property
    def step_mm(self) -> tuple[float, float, float]:
        """Distance from voxel to voxel along I, J, K in mm, as viewers place them."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(sizes[0]), float(sizes[1]), float(sizes[2]))

    def matches(self, other: Grid, *, tolerance_voxels: float = 0.1) -> bool:
        """Return whether both grids put every voxel at the same place, within the tolerance."""
        if self.shape != other.shape:
            return False
        corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)]).T
        corners[:3] *= (np.array(self.shape) - 1)[:, None]
        gap_mm = np.abs((self.affine - other.affine) @ corners)[:3].max()
        return bool(gap_mm <= tolerance_voxels * min(self.step_mm))


@dataclass(frozen=True)
class Volume:
    """An array with its grid.

    Attributes:
        array: `(I, J, K)`; a 2D image has `K = 1`.
        grid: where the voxels lie.
    """

    array: Array
    grid: Grid


def on_grid(volume: Volume, grid: Grid, *, picture: bool = False) -> Array | None:
    """Return a volume's voxels in the order of another grid that covers the same places.

    Args:
        volume: what to bring there.
        grid: the other grid.
        picture: whether the grid is a picture's, whose pixels have no size of their own: then
            places count in pixels.

    Returns:
        `grid.shape`; None if the two do not lie on each other.
    """
    moved = _reoriented(volume, grid)
    if moved is None:
        return None
    own = _in_pixels(moved.grid, grid) if picture else moved.grid
    return moved.array if own.matches(grid) else None


def _in_pixels(own: Grid, grid: Grid) -> Grid:
    """Return a grid with the voxel size of another one, its places scaled alike."""
    if own.shape != grid.shape:
        return own
    factors = np.array(grid.step_mm) / own.step_mm
    affine = own.affine.copy()
    affine[:3, :3] *= factors
    along = np.abs(own.affine[:3, :3]).argmax(axis=1)  # the voxel axis of each axis of space
    affine[:3, 3] *= factors[along]
    if grid.shape[2] == 1 and along[2] == 2:  # a picture lies at no height
        affine[2, 3] = grid.affine[2, 3]
    return Grid(own.shape, affine)


def _reoriented(volume: Volume, grid: Grid) -> Volume | None:
    """Return a volume with its axes in the order and direction of a grid's."""
    own = volume.grid
    try:
        orientation = nib.orientations.io_orientation(np.linalg.inv(grid.affine) @ own.affine)
    except np.linalg.LinAlgError:
        return None
    if np.isnan(orientation).any():
        return None
    array = np.ascontiguousarray(nib.orientations.apply_orientation(volume.array, orientation))
    affine = own.affine @ nib.orientations.inv_ornt_aff(orientation, own.shape)
    size_i, size_j, size_k = array.shape
    return Volume(array, Grid((size_i, size_j, size_k), affine))


def affine_from_itk(image: sitk.Image | sitk.ImageFileReader) -> Array:
    """Return the affine from voxel index to RAS mm of an ITK image."""
    dims = image.GetDimension()
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dims, dims)[:3, :3]
    spatial = min(dims, 3)
    affine[:spatial, :spatial] = direction * np.array(image.GetSpacing())[:spatial]
    affine[:spatial, 3] = np.array(image.GetOrigin())[:spatial]
    return LPS_TO_RAS @ affine


def to_itk(array: Array, grid: Grid, *, flatten: bool = True) -> sitk.Image:
    """Return a volume as an ITK image.

    Args:
        array: `grid.shape`.
        grid: where its voxels lie.
        flatten: whether one slice that lies flat becomes a 2D image.
    """
    lps = LPS_TO_RAS @ grid.affine
    spacing = np.array(grid.step_mm)
    flat = grid.shape[2] == 1 and np.allclose(lps[:3, 2], [0, 0, lps[2, 2]]) and lps[2, 3] == 0
    if flatten and flat and np.allclose(lps[2, :2], 0):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array[..., 0].T))
        image.SetSpacing(spacing[:2].tolist())
        image.SetOrigin(lps[:2, 3].tolist())
        image.SetDirection((lps[:2, :2] / spacing[:2]).ravel().tolist())
        return image
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    _place(image, grid)
    return image


def resample_nearest(volume: Volume, grid: Grid) -> Array:
    """Return a label map or mask resampled to another grid, `grid.shape`; 0 outside its own."""
    reference = sitk.Image(list(grid.shape), sitk.sitkUInt8)
    _place(reference, grid)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T))
    _place(image, volume.grid)
    moved = sitk.Resample(image, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return np.ascontiguousarray(sitk.GetArrayFromImage(moved).T)


def _place(image: sitk.Image, grid: Grid) -> None:
    lps = LPS_TO_RAS @ grid.affine
    spacing = np.array(grid.step_mm)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
