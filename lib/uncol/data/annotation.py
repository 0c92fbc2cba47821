"""Read a case's annotation in the app's values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from uncol.data.cases import Case
from uncol.data.labels import IGNORE_VALUE, annotated_part, map_label
from uncol.data.scan import Grid, read_label
from uncol.errors import LabelError
from uncol.types import Array


def read_annotation(case: Case, grid: Grid, labels: Mapping[str, int]) -> Array:
    """Read a case's label in the app's values.

    Args:
        case: an annotated case.
        grid: its scan's grid.
        labels: the app's labels.

    Returns:
        `(I, J, K)` uint8 in the scan's grid, 255 where it is not annotated.

    Raises:
        LabelError: it cannot be read, does not fit the scan, or has unknown values.
    """
    if case.label is None:
        raise LabelError(f"Case '{case.name}' is not annotated.")
    volume = read_label(case.label, case=case.name)
    if not volume.grid.matches(grid):
        raise LabelError(grid_mismatch(case.name, volume.grid.shape, grid.shape))
    return annotated_part(map_label(volume.array, case.segments, labels, case=case.name))


def grid_mismatch(case: str, label: tuple[int, ...], scan: tuple[int, ...]) -> str:
    """Return the message for a label that lies on another grid."""
    return (
        f"Label of case '{case}' is not on its scan's grid: it has {_by(label)} voxels, the scan "
        f"{_by(scan)}. Export the segmentation with the scan as reference volume."
    )


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def annotated(label: Tensor) -> tuple[Tensor, Tensor]:
    """Split a sampled label into class indices and the mask of annotated voxels."""
    known = label != IGNORE_VALUE
    return torch.where(known, label, torch.zeros_like(label)).long(), known
