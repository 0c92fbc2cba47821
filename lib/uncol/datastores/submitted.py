"""Read a label as a client sends it, and the names that may become files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uncol.data.labels import segment_values
from uncol.data.scan import Volume, file_extension, read_label
from uncol.data.segnrrd import read_seg_nrrd
from uncol.errors import LabelError, RequestError

FILE_NAME = re.compile(r"[^/\\\x00-\x1f]{1,200}")


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


def check_name(name: str, kind: str) -> None:
    """Refuse names that could leave the studies folder.

    Raises:
        RequestError: the name is empty, too long, hidden, or holds a path separator.
    """
    if not FILE_NAME.fullmatch(name or "") or name.startswith("."):
        raise RequestError(
            f"'{name}' is not a valid {kind}: it must be a plain file name of at most 200 "
            "characters, without slashes and not starting with a dot."
        )
