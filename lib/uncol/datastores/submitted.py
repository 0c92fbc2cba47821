"""Read a label as a client sends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uncol.data.labels import segment_values
from uncol.data.scan import Volume, file_extension, read_label
from uncol.data.segnrrd import read_seg_nrrd
from uncol.errors import LabelError


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
