"""Read a case's annotation in the app's values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from uncol.data.cases import Case
from uncol.data.grid import Grid, Volume, on_grid
from uncol.data.imagefile import file_extension, is_picture
from uncol.data.labels import IGNORE_VALUE, annotated_part, map_label
from uncol.data.scan import read_label
from uncol.data.segnrrd import read_seg_nrrd
from uncol.errors import LabelError
from uncol.types import Array


def read_annotation(
    case: Case, grid: Grid, labels: Mapping[str, int], *, empty_ok: bool = False
) -> Array:
    """Read a case's label in the app's values.

    Args:
        case: an annotated case.
        grid: its scan's grid.
        labels: the app's labels.
        empty_ok: whether it may hold no structure at all.

    Returns:
        `(I, J, K)` uint8 in the scan's grid, 255 where it is not annotated.

    Raises:
        LabelError: it cannot be read, does not fit the scan, or has unknown values.
    """
    if case.label is None:
        raise LabelError(f"Case '{case.name}' is not annotated.")
    if file_extension(case.label) == ".seg.nrrd":  # put there by hand
        volume, segments = read_seg_nrrd(case.label, case=case.name)
    else:
        volume, segments = read_label(case.label, case=case.name), case.segments
    array = on_scan(volume, grid, case.image, case.name)
    return annotated_part(map_label(array, segments, labels, case=case.name, empty_ok=empty_ok))


def on_scan(volume: Volume, grid: Grid, scan: Path, case: str) -> Array:
    """Return a label's voxels in the order of its scan's, `grid.shape`.

    Args:
        volume: the label.
        grid: its scan's grid.
        scan: the scan's file: pixels of a picture have no size.
        case: the case's name for messages.

    Raises:
        LabelError: the label does not lie on the scan.
    """
    array = on_grid(volume, grid, picture=is_picture(scan))
    if array is None:
        raise LabelError(_mismatch(case, volume.grid, grid))
    return array


def _mismatch(case: str, label: Grid, scan: Grid) -> str:
    remedy = "Export the segmentation with the scan as reference volume."
    if sorted(label.shape) != sorted(scan.shape):
        return (
            f"Label of case '{case}' is not on its scan's grid: it has {_by(label.shape)} voxels, "
            f"the scan {_by(scan.shape)}. {remedy}"
        )
    sizes, scan_sizes = (_by(round(s, 3) for s in one.spacing_mm) for one in (label, scan))
    return (
        f"Label of case '{case}' is not on its scan's grid: it has as many voxels, but they lie "
        f"elsewhere. Its voxels measure {sizes} mm and the first lies at {_at(label)} mm, the "
        f"scan's {scan_sizes} mm and {_at(scan)} mm. {remedy}"
    )


def _by(sizes: Iterable[float]) -> str:
    return "x".join(f"{size:g}" for size in sizes)


def _at(grid: Grid) -> str:
    return "(" + ", ".join(f"{place:.1f}" for place in grid.affine[:3, 3]) + ")"


def annotated(label: Tensor) -> tuple[Tensor, Tensor]:
    """Split a sampled label into class indices and the mask of annotated voxels."""
    known = label != IGNORE_VALUE
    return torch.where(known, label, torch.zeros_like(label)).long(), known
