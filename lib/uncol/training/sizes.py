"""Choose the sizes of voxels, student and crops for a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uncol.data.cases import Case
from uncol.data.frame import Space, choose_space, make_frame
from uncol.data.grid import Grid
from uncol.errors import TrainingError
from uncol.round_settings import RoundSettings
from uncol.training.presets import PRESETS, Preset, choose_preset, crop_share, fit_preset
from uncol.training.resolution import coarsen
from uncol.types import Shape


@dataclass(frozen=True)
class Sizes:
    """The sizes of a round.

    Attributes:
        space: the working axes and voxel size.
        name: the preset's name.
        preset: the preset of that name, fitted to the pool.
        crop_share: share of a scan of median shape that a crop holds; in 2D, of a slice.
    """

    space: Space
    name: str
    preset: Preset
    crop_share: float


def choose_sizes(grids: Sequence[Grid], labeled: Sequence[Case], settings: RoundSettings) -> Sizes:
    """Choose the sizes of a round.

    Args:
        grids: of the pool's scans, at least one.
        labeled: annotated cases; voxels grow until a crop holds what is labeled in them.
        settings: preset, labels and device.

    Raises:
        TrainingError: the preset is for volumes and the scans are single images.
    """
    own = choose_space(list(grids))
    gpu = settings.device.type == "cuda"
    name = choose_preset(settings.preset, shape=_median_shape(grids, own), gpu=gpu)
    most, flat = PRESETS[name].voxels, PRESETS[name].spec.dims == 2
    space = coarsen(own, labeled, settings.labels, voxels=most, flat=flat)
    return fit_sizes(name, space, grids)


def fit_sizes(name: str, space: Space, grids: Sequence[Grid]) -> Sizes:
    """Return the sizes of a preset where the working voxels are given.

    Args:
        name: the preset's.
        space: the working axes and voxel size.
        grids: of the pool's scans, at least one.

    Raises:
        TrainingError: the preset is for volumes and the scans are single images.
    """
    shape = _median_shape(grids, space)
    if PRESETS[name].spec.dims == 3 and shape[2] == 1:
        raise TrainingError(
            f"Preset {name} is for volumes, but the scans are single images. "
            "Start the server with --conf preset auto or small2d."
        )
    preset = fit_preset(name, shape=shape, spacing_mm=space.spacing_mm)
    return Sizes(space, name, preset, crop_share(preset, shape))


def _median_shape(grids: Sequence[Grid], space: Space) -> Shape:
    shapes = np.array([make_frame(grid, space).working.shape for grid in grids])
    size_i, size_j, size_k = (int(size) for size in np.median(shapes, axis=0))
    return (size_i, size_j, size_k)
