"""Write an infer result as MONAI Label's clients ask for it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.transform.writer import write_seg_nrrd
from pydicom.dataset import Dataset

from uncol.data.scan import Grid, write_volume
from uncol.errors import RequestError
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
    values = range(1, len(result.names) + 1)
    channels = np.stack([result.array == value for value in values])
    write_seg_nrrd(channels, path, np.uint8, result.grid.affine, list(result.names))


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


def write_result(array: Array, grid: Grid, names: Sequence[str], request: Mapping[str, Any]) -> str:
    """Write a label map or an uncertainty map to a temporary file and return its path.

    Args:
        array: `(I, J, K)`.
        grid: its grid.
        names: segment names of values 1...N.
        request: `result_extension` (default `.nrrd`), `result_compress`.

    Raises:
        RequestError: the extension is not one we write.
        StorageError: the file cannot be written.
    """
    extension = str(request.get("result_extension") or ".nrrd").lower()
    if extension not in FORMATS:
        raise RequestError(f"result_extension '{extension}' is not one of {', '.join(FORMATS)}.")
    path = temporary(extension)
    FORMATS[extension](
        path, Result(array, grid, names, is_on(request.get("result_compress", True)))
    )
    return path


def write_json_result(value: object) -> str:
    """Write JSON to a temporary file and return its path."""
    path = temporary(".json")
    Path(path).write_text(json.dumps(value))
    return path


def write_dicom_result(dataset: Dataset) -> str:
    """Write a DICOM data set to a temporary file and return its path."""
    path = temporary(".dcm")
    dataset.save_as(path, write_like_original=False)
    return path


def temporary(extension: str) -> str:
    """Return the path of a new temporary file; the server deletes it after answering.

    The files lie in a folder of their own: MONAI Label's client saves an answer under the same
    name in its temporary folder, and on the same machine the server would delete that one.
    """
    folder = Path(tempfile.gettempdir()) / "uncol-results"
    folder.mkdir(mode=0o700, exist_ok=True)
    number, name = tempfile.mkstemp(suffix=extension, prefix="uncol-", dir=folder)
    os.close(number)
    return name


def is_on(value: object) -> bool:
    """Read a flag that a client may send as bool or text."""
    return str(value).strip().lower() in ("true", "1", "yes", "on")
