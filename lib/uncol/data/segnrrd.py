"""Slicer's own segmentation files, `.seg.nrrd`, as one label map with named segments."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from uncol.data.scan import DAMAGED, Grid, Volume, affine_from_itk, damaged
from uncol.errors import LabelError
from uncol.types import Array

SEGMENT_NAME = re.compile(r"Segment(\d+)_Name")


def read_seg_nrrd(path: Path, *, case: str) -> tuple[Volume, dict[str, int]]:
    """Read a `.seg.nrrd`.

    Slicer keeps segments that overlap in layers of their own, names and values in the header.

    Args:
        path: the file.
        case: the case's name for messages.

    Returns:
        `(I, J, K)` int32 with 1, 2, ... for the segments in the file's order, and the value of each
        name.

    Raises:
        LabelError: the file is damaged, has no segments, or two of them overlap.
    """
    try:
        image = sitk.ReadImage(str(path))
    except DAMAGED as error:
        raise LabelError(damaged("label", case, path, error)) from error
    keys = [match for match in map(SEGMENT_NAME.fullmatch, image.GetMetaDataKeys()) if match]
    numbers = sorted(int(match.group(1)) for match in keys)
    if not numbers:
        raise LabelError(
            f"The label of case '{case}' is called .seg.nrrd but names no segments ({path}). "
            "Export it from Slicer's Segmentations module."
        )
    layers = _layers(image)
    _, size_i, size_j, size_k = layers.shape
    label = np.zeros((size_i, size_j, size_k), dtype=np.int32)
    owners: dict[int, str] = {}
    for value, number in enumerate(numbers, start=1):
        name = image.GetMetaData(f"Segment{number}_Name")
        layer = int(_told(image, number, "Layer", 0))
        mask = layers[layer] == int(_told(image, number, "LabelValue", 1))
        other = [owners[int(v)] for v in np.unique(label[mask]) if v]
        if other:
            raise LabelError(
                f"In the label of case '{case}' the segments '{other[0]}' and '{name}' overlap. "
                "Let each voxel belong to one of them: Segment Editor, Masking, Modify other "
                "segments: Overwrite all."
            )
        label[mask] = value
        owners[value] = name
    grid = Grid((size_i, size_j, size_k), affine_from_itk(image))
    return Volume(label, grid), {name: value for value, name in owners.items()}


def _layers(image: sitk.Image) -> Array:
    """Return `(layers, I, J, K)`."""
    array = sitk.GetArrayFromImage(image)  # (K, J, I) or (K, J, I, layers)
    return np.asarray(array.T if array.ndim == 4 else array.T[None])


def _told(image: sitk.Image, number: int, word: str, default: int) -> str:
    key = f"Segment{number}_{word}"
    return str(image.GetMetaData(key)) if image.HasMetaDataKey(key) else str(default)
