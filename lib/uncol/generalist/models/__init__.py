"""Generalized teachers: frozen foundation models behind one protocol.

To add one: a file with a `load` function, and an entry in `TEACHERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from uncol.generalist.models import litemedsam, medsam, sam_med3d
from uncol.generalist.models.protocol import GeneralizedTeacher

NO_TEACHER = "none"

TEACHERS: dict[str, Callable[[Path | None, Path], GeneralizedTeacher]] = {
    "litemedsam": litemedsam.load,
    "medsam": medsam.load,
    "sam_med3d": sam_med3d.load,
}


def load_teacher(
    name: str, *, weights: Path | None, weights_dir: Path
) -> GeneralizedTeacher | None:
    """Load a generalized teacher.

    Args:
        name: a key of `TEACHERS`, or `none`.
        weights: a weights file to use in place of the usual one.
        weights_dir: where downloaded weights are kept.

    Returns:
        The teacher, or None for `none`.

    Raises:
        WeightsError: the weights are missing, damaged, or do not fit the network.
    """
    return None if name == NO_TEACHER else TEACHERS[name](weights, weights_dir)
