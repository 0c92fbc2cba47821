"""A real pool without a download: brain MR cases derived from the MNI152 template.

T1 and tissue maps ship inside the package `nilearn`. Each case shows the posterior fossa under its
own smooth anatomical deformation, contrast, bias field, noise, field of view and voxel size, with
cerebellum and brainstem as its labels.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from uncol.data.grid import Grid
from uncol.data.scan import write_volume
from uncol.types import Array

BRAIN_LABELS = ("cerebellum", "brainstem")
TISSUE = 0.55  # probability of grey or white matter from which a voxel is brain
CEREBELLUM_MM = ((0.0, -64.0, -38.0), (56.0, 36.0, 28.0))  # centre and radii in MNI space
BRAINSTEM_MM = ((-15.0, -46.0, -60.0), (15.0, -8.0, -14.0))  # corners
FIELD_MM = ((-66.0, -108.0, -76.0), (66.0, 4.0, -2.0))  # corners of the field of view
POOL_SPACING_MM = (2.6, 3.4)
BEND_MM = 7.0  # largest displacement of the deformation
BEND_EVERY_MM = 35.0


def make_pool(studies: Path, truth: Path, *, cases: int, seed: int) -> str:
    """Write scans into `studies` and their labels into `truth`, under the same names.

    Args:
        studies: folder for the scans; made if missing.
        truth: folder for the labels, which no server sees.
        cases: how many.
        seed: the same seed gives the same files.

    Returns:
        The labels as the app's `labels` setting wants them.
    """
    for folder in (studies, truth):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, cases + 1):
        scan, label, grid = make_case(np.random.default_rng([seed, number]))
        name = f"brain_{number:03d}.nii.gz"
        write_volume(studies / name, scan, grid)
        write_volume(truth / name, label, grid)
    return ",".join(BRAIN_LABELS)


def make_case(generator: np.random.Generator) -> tuple[Array, Array, Grid]:
    """Make one case.

    Returns:
        Scan `(I, J, K)` float32, label `(I, J, K)` uint8, and their grid.
    """
    grid = _grid(generator)
    places = _places_mm(grid) + _bend_mm(grid, generator)
    image, labels, to_voxel = _template()
    voxels = np.einsum("ab,b...->a...", to_voxel[:3, :3], places)
    voxels += to_voxel[:3, 3][:, None, None, None]
    scan = ndimage.map_coordinates(image, voxels, order=1)
    label = ndimage.map_coordinates(labels, voxels, order=0)
    scan = np.clip(scan, 0, None) ** generator.uniform(0.75, 1.35)
    scan *= np.exp(_smooth(grid.shape, generator, 0.35))
    scan += generator.normal(0, generator.uniform(0.02, 0.06), scan.shape)
    return (np.clip(scan, 0, None) * 500).astype(np.float32), label.astype(np.uint8), grid


def _grid(generator: np.random.Generator) -> Grid:
    spacing = generator.uniform(*POOL_SPACING_MM)
    low = np.array(FIELD_MM[0]) + generator.uniform(-6, 6, 3)
    size = np.array(FIELD_MM[1]) - np.array(FIELD_MM[0]) + generator.uniform(-6, 6, 3)
    size_i, size_j, size_k = (round(length / spacing) for length in size)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = low
    return Grid((size_i, size_j, size_k), affine)


def _places_mm(grid: Grid) -> Array:
    """Return the MNI place of every voxel, `(3, I, J, K)`."""
    index = np.indices(grid.shape).astype(float)
    offset = grid.affine[:3, 3][:, None, None, None]
    return np.asarray(np.einsum("ab,b...->a...", grid.affine[:3, :3], index) + offset)


def _bend_mm(grid: Grid, generator: np.random.Generator) -> Array:
    """Return a smooth displacement and a small turn and scaling, `(3, I, J, K)`."""
    turn = np.eye(3) + generator.uniform(-0.08, 0.08, (3, 3))
    middle = np.array(CEREBELLUM_MM[0])[:, None, None, None]
    places = _places_mm(grid) - middle
    linear = np.einsum("ab,b...->a...", turn - np.eye(3), places)
    smooth = np.stack([_smooth(grid.shape, generator, BEND_MM, grid) for _ in range(3)])
    return np.asarray(linear + smooth)


def _smooth(
    shape: tuple[int, int, int],
    generator: np.random.Generator,
    most: float,
    grid: Grid | None = None,
) -> Array:
    """Return a smooth random field; its largest absolute value is `most` or up to half less."""
    width = BEND_EVERY_MM / grid.spacing_mm[0] / 2 if grid else max(shape) / 4
    field = ndimage.gaussian_filter(generator.normal(size=shape), width, mode="reflect")
    return np.asarray(field / np.abs(field).max() * most * generator.uniform(0.5, 1.0))


@cache
def _template() -> tuple[Array, Array, Array]:
    """Return T1 in [0, 1], labels, and the map from MNI mm to template voxels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nilearn import datasets  # noqa: PLC0415 - slow import, only the demo needs it

        maps = [
            load(resolution=2)
            for load in (
                datasets.load_mni152_template,
                datasets.load_mni152_gm_template,
                datasets.load_mni152_wm_template,
            )
        ]
    image, grey, white = (np.asarray(m.get_fdata(dtype=np.float32)) for m in maps)
    affine = np.asarray(maps[0].affine)
    places = apply_affine(affine, np.moveaxis(np.indices(image.shape), 0, -1))
    brain = grey + white > TISSUE
    centre, radii = (np.array(values) for values in CEREBELLUM_MM)
    cerebellum = brain & ((((places - centre) / radii) ** 2).sum(axis=-1) < 1)
    low, high = (np.array(values) for values in BRAINSTEM_MM)
    stem = brain & ((places > low) & (places < high)).all(axis=-1)
    stem = _largest(ndimage.binary_opening(stem))
    cerebellum = _largest(ndimage.binary_opening(cerebellum & ~stem))
    labels = np.where(stem, 2, np.where(cerebellum, 1, 0)).astype(np.uint8)
    return image / image.max(), labels, np.linalg.inv(affine)


def _largest(mask: Array) -> Array:
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())
