"""Write an infer result as MONAI Label's clients ask for it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from uncol.data.grid import Grid
from uncol.data.scan import write_volume
from uncol.data.segnrrd import write_seg_nrrd
from uncol.errors import RequestError
from uncol.storage.plain import shown
from uncol.tasks.requests import InferWork
from uncol.types import Array


@dataclass(frozen=True)
class Result:
    """A label map or map to be written.

    Attributes:
        array: `(I, J, K)`.
        grid: its grid.
        names: segment names of values 1...N, for formats that keep them.
        compress: whether a format that can is to compress.
    """

    array: Array
    grid: Grid
    names: Sequence[str]
    compress: bool


def _write_volume(path: str, result: Result) -> None:
    write_volume(path, result.array, result.grid, compress=result.compress)


def _write_segments(path: str, result: Result) -> None:
    write_seg_nrrd(path, result.array, result.grid, result.names, compress=result.compress)


# to add an output format: its extension and what writes it
FORMATS: dict[str, Callable[[str, Result], None]] = {
    ".nii.gz": _write_volume,
    ".nii": _write_volume,
    ".nrrd": _write_volume,
    ".seg.nrrd": _write_segments,
    ".mha": _write_volume,
    ".png": _write_volume,
    ".tif": _write_volume,
    ".tiff": _write_volume,
}


def write_result(array: Array, grid: Grid, names: Sequence[str], work: InferWork) -> Path:
    """Write a label map or an uncertainty map to the request's folder and return its path.

    Args:
        array: `(I, J, K)`.
        grid: its grid.
        names: segment names of values 1...N.
        work: says the format, by default `.nrrd`, and whether to compress.

    Raises:
        RequestError: the extension is not one we write.
        StorageError: the file cannot be written.
    """
    extension = (work.asked.result_extension or ".nrrd").lower()
    if extension not in FORMATS:
        raise RequestError(
            f"result_extension {shown(extension)} is not one of {', '.join(FORMATS)}."
        )
    path = new_file(work.folder, extension)
    FORMATS[extension](str(path), Result(array, grid, names, work.asked.result_compress))
    return path


def write_json_result(value: object, folder: Path) -> Path:
    """Write JSON to a new file of a folder and return its path."""
    path = new_file(folder, ".json")
    path.write_text(json.dumps(value))
    return path


def write_dicom_result(dataset: Dataset, folder: Path) -> Path:
    """Write a DICOM data set to a new file of a folder and return its path."""
    path = new_file(folder, ".dcm")
    dataset.save_as(path, write_like_original=False)
    return path


def new_file(folder: Path, extension: str) -> Path:
    """Return a new, empty file that only this user may read.

    The client saves an answer under the same name in its temporary folder.
    """
    number, name = tempfile.mkstemp(suffix=extension, prefix="uncol-", dir=folder)
    os.close(number)
    return Path(name)
