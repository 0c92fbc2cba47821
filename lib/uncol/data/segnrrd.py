"""Slicer's own segmentation files, `.seg.nrrd`, as one label map with named segments.

The format: https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from uncol.data.grid import Grid, Volume, affine_from_itk, to_itk
from uncol.data.imagefile import DAMAGED
from uncol.data.labels import IGNORED
from uncol.data.names import fold
from uncol.data.scan import check_size, damaged
from uncol.errors import LabelError, StorageError, why
from uncol.types import Array

NO_SEGMENTS = (
    "The label of case '{case}' is called .seg.nrrd but names no segments ({path}). Export it from "
    "Slicer's Segmentations module."
)
SEGMENT_NAME = re.compile(r"Segment(\d+)_Name")


def read_seg_nrrd(path: Path, *, case: str) -> tuple[Volume, dict[str, int]]:
    """Read a `.seg.nrrd`.

    Slicer keeps overlapping segments in separate layers, and names and values in the header. Review
    bands, scribbles and the background are left out, whatever they cover.

    Args:
        path: the file.
        case: the case's name for messages.

    Returns:
        `(I, J, K)` int32 with 1, 2, ... for the segments in the file's order, and each name's
        value.

    Raises:
        LabelError: the file is damaged, has no segments, or two of them overlap.
    """
    check_size(path, case, LabelError, "label")
    try:
        image = sitk.ReadImage(str(path))
    except DAMAGED as error:
        raise LabelError(damaged("label", case, path, error)) from error
    segments = _segments(image)
    if not segments:
        raise LabelError(NO_SEGMENTS.format(case=case, path=path))
    layers = _layers(image)
    _, size_i, size_j, size_k = layers.shape
    label = np.zeros((size_i, size_j, size_k), dtype=np.int32)
    values: dict[str, int] = {}
    for value, segment in enumerate(segments, start=1):
        if fold(segment.name) in IGNORED:  # review bands lie over the anatomy
            continue
        mask = layers[segment.layer] == segment.value
        if not mask.any():
            continue
        if segment.name in values:
            raise LabelError(
                f"The label of case '{case}' has two segments named '{segment.name}'. Keep one of "
                "them, and submit again."
            )
        values[segment.name] = value
        _refuse_overlap(label[mask], segments, segment, case)
        label[mask] = value
    grid = Grid((size_i, size_j, size_k), affine_from_itk(image))
    for value, segment in enumerate(segments, start=1):  # the app may not know an empty one, either
        if fold(segment.name) not in IGNORED:
            values.setdefault(segment.name, value)
    return Volume(label, grid), values


def _refuse_overlap(
    below: Array, segments: Sequence[_Segment], segment: _Segment, case: str
) -> None:
    """Refuse a segment that covers another one.

    Raises:
        LabelError: it does.
    """
    owners = [segments[int(v) - 1].name for v in np.unique(below) if v]
    if owners:
        raise LabelError(
            f"In the label of case '{case}' the segments '{owners[0]}' and '{segment.name}' "
            "overlap. Let each voxel belong to one of them: Segment Editor, Masking, Modify "
            "other segments: Overwrite all."
        )


def write_seg_nrrd(
    path: str | Path, array: Array, grid: Grid, names: Sequence[str], *, compress: bool = True
) -> None:
    """Write a label map with named segments, in one layer.

    Args:
        path: the file, `.seg.nrrd`.
        array: `(I, J, K)`, 0, 1...N.
        grid: where its voxels lie.
        names: of the values 1...N, in any script.
        compress: whether voxels are packed.

    Raises:
        StorageError: it could not be written.
    """
    image = to_itk(array.astype(np.uint8), grid, flatten=False)
    for number, name in enumerate(names):
        words = {"ID": f"Segment_{number + 1}", "Name": name, "LabelValue": number + 1, "Layer": 0}
        for word, value in words.items():
            image.SetMetaData(f"Segment{number}_{word}", str(value))
    try:
        sitk.WriteImage(image, str(path), useCompression=compress)
    except RuntimeError as error:
        raise StorageError(
            f"Could not write {path}: {why(error)}. Free some disk space or check the permissions."
        ) from error


@dataclass(frozen=True)
class _Segment:
    name: str
    layer: int
    value: int


def _segments(image: sitk.Image) -> list[_Segment]:
    """Return the segments that the header names, in the file's order."""
    keys = [match for match in map(SEGMENT_NAME.fullmatch, image.GetMetaDataKeys()) if match]
    numbers = sorted(int(match.group(1)) for match in keys)
    # MONAI Label writes a layer per segment and does not say so
    each = image.GetNumberOfComponentsPerPixel() == len(numbers) > 1 and not any(
        image.HasMetaDataKey(f"Segment{number}_Layer") for number in numbers
    )
    return [
        _Segment(
            image.GetMetaData(f"Segment{number}_Name"),
            place if each else int(_header_value(image, number, "Layer", 0)),
            int(_header_value(image, number, "LabelValue", 1)),
        )
        for place, number in enumerate(numbers)
    ]


def _layers(image: sitk.Image) -> Array:
    """Return `(layers, I, J, K)`."""
    array = sitk.GetArrayFromImage(image)  # (K, J, I) or (K, J, I, layers)
    return np.asarray(array.T if array.ndim == 4 else array.T[None])


def _header_value(image: sitk.Image, number: int, word: str, default: int) -> str:
    key = f"Segment{number}_{word}"
    return str(image.GetMetaData(key)) if image.HasMetaDataKey(key) else str(default)
