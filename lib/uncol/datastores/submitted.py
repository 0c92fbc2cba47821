"""Read a label as a client sends it, and write it as it is kept."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uncol.data.annotation import on_scan
from uncol.data.grid import Volume
from uncol.data.imagefile import file_extension
from uncol.data.labels import MARKS, map_label, names_and_indices, segment_values
from uncol.data.scan import read_grid, read_label, write_volume
from uncol.data.segnrrd import read_seg_nrrd
from uncol.errors import LabelError

# formats that keep every value, in one file
LABEL_FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff")


def stored_extension(filename: str, *, submitted: bool) -> str:
    """Return the extension under which a label is kept: its own, if that loses nothing."""
    extension = file_extension(filename)
    return extension if not submitted or extension in LABEL_FORMATS else LABEL_FORMATS[0]


def read_submitted(
    filename: str, label_info: Sequence[Mapping[str, Any]], case: str
) -> tuple[Volume, dict[str, int]]:
    """Return a submitted label and the value of each segment; none if values are the app's own.

    Raises:
        LabelError: it cannot be read, is not a segmentation, or `label_info` does not explain it.
    """
    kind = file_extension(filename)
    if kind == ".seg.nrrd":
        return read_seg_nrrd(Path(filename), case=case)
    if kind == ".json":
        raise LabelError(
            f"Boxes were submitted for case '{case}', not a segmentation: Slicer does that while a "
            "model of boxes is chosen. Choose uncol under Auto Segmentation and submit again."
        )
    volume = read_label(filename, case=case)
    if not label_info:
        return volume, {}
    return volume, segment_values(label_info, np.unique(volume.array).tolist(), case)


def meant_segments(
    path: Path, listed: Sequence[Mapping[str, Any]], case: str
) -> list[dict[str, Any]]:
    """Return a stored label's segments with the voxel value of each.

    Args:
        path: the label's file.
        listed: its segments as an earlier index has them, as viewers sent them.
        case: the case's name for messages.

    Raises:
        LabelError: they do not say which value is which segment.
    """
    names, indices = names_and_indices(listed, case)
    if indices != list(range(1, len(names) + 1)) and file_extension(path) != ".seg.nrrd":
        present = np.unique(read_label(path, case=case).array).tolist()
        segments = segment_values(listed, present, case)
        names, indices = list(segments), list(segments.values())
    return [{"name": name, "idx": value} for name, value in zip(names, indices, strict=True)]


def check_final(
    name: str,
    filename: str,
    scan: Path,
    info: dict[str, Any],
    labels: Mapping[str, int],
    target: Path,
) -> dict[str, Any]:
    """Write a submitted label in the app's values.

    Args:
        name: the case.
        filename: the label as it came.
        scan: the case's scan.
        info: what came with it; `label_info` says what its values mean.
        labels: the app's labels.
        target: where to write; its extension is one of `LABEL_FORMATS`.

    Returns:
        `info`, with the names of what was written.

    Raises:
        LabelError: the label does not fit its scan or the app's labels.
        ScanError: the scan cannot be read.
        StorageError, OSError: it could not be written.
    """
    volume, segments = read_submitted(filename, info.get("label_info") or [], name)
    grid = read_grid(scan, case=name)
    array = on_scan(volume, grid, scan, name)
    mapped = map_label(array, segments, labels, case=name)
    same_format = file_extension(filename) == file_extension(target)
    if same_format and volume.grid.matches(grid) and np.array_equal(mapped, volume.array):
        shutil.copyfile(filename, target)
    else:
        write_volume(target, mapped, grid)
    marks = {mark: value for mark, value in MARKS.items() if (mapped == value).any()}
    segments = {**labels, **marks}
    return {**info, "label_info": [{"name": one, "idx": value} for one, value in segments.items()]}
