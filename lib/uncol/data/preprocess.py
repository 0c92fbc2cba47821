"""The one definition of preprocessing, for training, validation and serving alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from uncol.data.frame import Frame, Space, as_tensor, make_frame
from uncol.data.grid import Volume

CT_WINDOW_HU = (-200.0, 300.0)  # soft tissue with room on both sides
CT_AIR_HU = -500.0  # no MR scan goes this low; any CT with air does
MR_PERCENTILES = (0.005, 0.995)
MAX_SAMPLES = 100_000  # values for a percentile; sorting a million takes a tenth of a second


@dataclass(frozen=True)
class Prepared:
    """A scan as the networks see it.

    Attributes:
        image: `(1, I, J, K)` float32 in the working frame, mean 0 and standard deviation 1.
        frame: the way back to the scan's grid.
    """

    image: Tensor
    frame: Frame


def prepare(scan: Volume, space: Space, modality: str) -> Prepared:
    """Bring a scan into the working frame and normalize it.

    Args:
        scan: the scan as read.
        space: the model's space.
        modality: `ct`, `mr` or `auto` (CT where values go below -500 HU).
    """
    frame = make_frame(scan.grid, space)
    image = frame.to_working(as_tensor(scan.array))
    return Prepared(normalize(image, modality), frame)


def normalize(image: Tensor, modality: str) -> Tensor:
    """Clip outliers and scale to mean 0, standard deviation 1.

    CT is clipped to -200...300 HU. MR is clipped to its own 0.5th and 99.5th percentile.
    """
    if modality == "auto":
        modality = "ct" if float(image.min()) < CT_AIR_HU else "mr"
    if modality == "ct":
        low, high = CT_WINDOW_HU
    else:
        values = image.flatten()
        values = values[:: max(1, values.numel() // MAX_SAMPLES)]
        low, high = torch.quantile(values, torch.tensor(MR_PERCENTILES)).tolist()
    if low < high:  # equal when nearly all voxels share one value; then clipping would flatten it
        image = image.clamp(low, high)
    return (image - image.mean()) / image.std().clamp_min(1e-6)
