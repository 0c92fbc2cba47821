"""Uncertainty maps as DICOM Parametric Maps."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from uncol.data.grid import Grid
from uncol.dicom.frames import on_grid
from uncol.dicom.odd import ODD
from uncol.dicom.segmentation import SCHEME, ResultOrigin, finished, identity
from uncol.dicom.series import Series
from uncol.errors import LabelError, why
from uncol.types import Array

NO_UNITS = Code("1", "UCUM", "no units")
QUANTITY = Code("UNCERTAINTY", SCHEME, "Predictive uncertainty (normalized entropy)")


def write_map(values: Array, series: Series, source: ResultOrigin) -> Dataset:
    """Make a DICOM Parametric Map from a map, in the frames of its series.

    Args:
        values: `(I, J, K)` float32 in [0, 1], in the series' grid.
        series: what it is a map of.
        source: what made it.

    Raises:
        LabelError: the series' headers lack what a result takes over from them.
    """
    try:
        return _written(values, series, source)
    except ODD as error:
        raise LabelError(
            f"No DICOM Parametric Map can refer to this series: {why(error)}."
        ) from error


def _written(values: Array, series: Series, source: ResultOrigin) -> Dataset:
    frames = np.ascontiguousarray(values.transpose(2, 1, 0), dtype=np.float32)
    meaning = hd.pm.RealWorldValueMapping(
        lut_label="1",
        lut_explanation="Uncertainty from 0 to 1",
        unit=NO_UNITS,
        value_range=(0.0, 1.0),
        slope=1.0,
        intercept=0.0,
        quantity_definition=QUANTITY,
    )
    made = hd.pm.ParametricMap(
        source_images=list(series.headers),
        pixel_array=frames,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[meaning],
        window_center=0.5,
        window_width=1.0,
        **identity(source),
    )
    made.Laterality = ""  # highdicom leaves it out; the general series module asks for it (2C)
    return finished(made)


def read_map(dataset: Dataset, grid: Grid) -> Array:
    """Read a parametric map of one value per voxel, `(I, J, K)` float32 in a scan's grid.

    Raises:
        LabelError: its frames have no position in the patient.
    """
    frames = np.asarray(dataset.pixel_array, dtype=np.float32)
    if frames.ndim == 2:
        frames = frames[None]
    return on_grid(dataset, frames, range(len(frames)), grid)
