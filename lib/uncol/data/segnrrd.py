"""Slicer's own segmentation files, `.seg.nrrd`, as one label map with named segments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from uncol.data.scan import DAMAGED, Grid, Volume, affine_from_itk, check_size, damaged
from uncol.errors import LabelError
from uncol.types import Array

SEGMENT_NAME = re.compile(r"Segment(\d+)_Name")


def read_seg_nrrd(path: Path, *, case: str) -> tuple[Volume, dict[str, int]]:
    """Read a `.seg.nrrd`.

    Slicer keeps overlapping segments in separate layers, and names and values in the header.

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
        raise LabelError(
            f"The label of case '{case}' is called .seg.nrrd but names no segments ({path}). "
            "Export it from Slicer's Segmentations module."
        )
    layers = _layers(image)
    _, size_i, size_j, size_k = layers.shape
    label = np.zeros((size_i, size_j, size_k), dtype=np.int32)
    for value, segment in enumerate(segments, start=1):
        mask = layers[segment.layer] == segment.value
        owners = [segments[int(v) - 1].name for v in np.unique(label[mask]) if v]
        if owners:
            raise LabelError(
                f"In the label of case '{case}' the segments '{owners[0]}' and '{segment.name}' "
                "overlap. Let each voxel belong to one of them: Segment Editor, Masking, Modify "
                "other segments: Overwrite all."
            )
        label[mask] = value
    grid = Grid((size_i, size_j, size_k), affine_from_itk(image))
    return Volume(label, grid), {one.name: value for value, one in enumerate(segments, start=1)}


@dataclass(frozen=True)
class _Segment:
    name: str
    layer: int
    value: int


def _segments(image: sitk.Image) -> list[_Segment]:
    """Return the segments that the header names, in the file's order."""
    keys = [match for match in map(SEGMENT_NAME.fullmatch, image.GetMetaDataKeys()) if match]
    return [
        _Segment(
            image.GetMetaData(f"Segment{number}_Name"),
            int(_header_value(image, number, "Layer", 0)),
            int(_header_value(image, number, "LabelValue", 1)),
        )
        for number in sorted(int(match.group(1)) for match in keys)
    ]


def _layers(image: sitk.Image) -> Array:
    """Return `(layers, I, J, K)`."""
    array = sitk.GetArrayFromImage(image)  # (K, J, I) or (K, J, I, layers)
    return np.asarray(array.T if array.ndim == 4 else array.T[None])


def _header_value(image: sitk.Image, number: int, word: str, default: int) -> str:
    key = f"Segment{number}_{word}"
    return str(image.GetMetaData(key)) if image.HasMetaDataKey(key) else str(default)
