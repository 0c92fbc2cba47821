"""What a model version thinks of each case, and what the generalist sees in it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from uncol.data.boxes import PlaceMm
from uncol.storage.ledger import Ledger, Record
from uncol.storage.model_folder import ModelFolder


class LabelScore(BaseModel):
    """What a version thinks of one label of a case.

    Attributes:
        uncertainty: mean uncertainty in the band around the predicted label, in [0, 1].
        voxels: size of the predicted label in the scan's voxels; 0 if it was not found.
        dice: estimated Dice, or None where nothing was found.
    """

    model_config = ConfigDict(frozen=True)

    uncertainty: float
    voxels: int
    dice: float | None


class Score(Record):
    """What a version thinks of a case.

    Attributes:
        quality: estimated mean Dice in [0, 1].
        interval: where the true Dice lies in 90 % of cases; [0, 1] before calibration.
        band: `accept`, `check` or `redo`.
        labels: one score per label.
        rois: the places worth a look.
        map_file: file name of its uncertainty map and of its label in their folders.
    """

    quality: float
    interval: tuple[float, float]
    band: str
    labels: dict[str, LabelScore]
    rois: tuple[PlaceMm, ...] = ()
    map_file: str = ""

    @property
    def uncertainty(self) -> float:
        """Mean uncertainty of the labels that were found, in [0, 1]; 0 if none was."""
        unsure = [label.uncertainty for label in self.labels.values() if label.voxels]
        return sum(unsure) / len(unsure) if unsure else 0.0


class Embedding(Record):
    """Where a case lies in the generalist's space.

    Attributes:
        vector: pooled image features.
    """

    vector: tuple[float, ...]


def scores_of(folder: ModelFolder, version: int) -> Ledger[Score]:
    """Return a version's scores."""
    return _open(folder.notes(version).scores, Score)


def embeddings_of(folder: ModelFolder, generalist: str) -> Ledger[Embedding]:
    """Return the pool's embeddings under a generalist."""
    return _open(folder.embeddings(generalist), Embedding)


@functools.cache
def _open(path: Path, kind: type[Any]) -> Ledger[Any]:
    """Open a ledger once, so that later calls do not parse it again."""
    return Ledger(path, kind)
