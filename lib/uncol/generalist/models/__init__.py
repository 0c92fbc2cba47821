"""Generalists: frozen foundation models behind one protocol.

To add one: a file here, named as users name it, with a `load` function, and an entry in
`GENERALISTS`. Settings, command line and README take their lists from the table, which loads
nothing by itself.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uncol.generalist.models.protocol import FoundationModel
    from uncol.networks.weights import Download

NO_GENERALIST = "none"


@dataclass(frozen=True)
class GeneralistEntry:
    """What is known of a generalist before it is loaded.

    Attributes:
        downloaded: whether its weights are downloaded; `download` in its file then says from where.
    """

    downloaded: bool


GENERALISTS = {
    "litemedsam": GeneralistEntry(downloaded=False),
    "medsam": GeneralistEntry(downloaded=True),
    "sam_med3d": GeneralistEntry(downloaded=True),
}


def load_foundation_model(
    name: str, *, weights: Path | None, weights_dir: Path
) -> FoundationModel | None:
    """Load a generalist.

    Args:
        name: a key of `GENERALISTS`, or `none`.
        weights: a weights file to use in place of the usual one.
        weights_dir: where downloaded weights are kept.

    Returns:
        The generalist, or None for `none`.

    Raises:
        WeightsError: the weights are missing, damaged, or do not fit the network.
    """
    if name == NO_GENERALIST:
        return None
    model: FoundationModel = _module(name).load(weights, weights_dir)
    return model


def download_of(name: str) -> Download:
    """Return where a generalist's weights come from; its entry must be `downloaded`."""
    download: Download = _module(name).download()
    return download


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
