"""What the current model thinks of each unlabeled case, in a side-car file a version."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from uncol.training.versions import write_json


@dataclass(frozen=True)
class Score:
    """A case's score under one model version.

    Attributes:
        quality: estimated Dice in [0, 1].
        uncertainty: mean normalized entropy in the predicted foreground, in [0, 1].
        reason: a sentence for the annotator.
    """

    quality: float
    uncertainty: float
    reason: str


class ScoreFile:
    """Scores of one version, by case; written by scoring runs, read by the strategies."""

    def __init__(self, folder: Path, version: int) -> None:
        """Open the file of a version; it need not exist yet."""
        self.path = folder / "scores" / f"{version}.json"

    def read(self) -> dict[str, Score]:
        """Return all scores; empty before the first run."""
        try:
            entries = json.loads(self.path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return {name: Score(**entry) for name, entry in entries.items()}

    def write(self, scores: dict[str, Score]) -> None:
        """Replace all scores.

        Raises:
            StorageError: the file cannot be written; the old one is unchanged.
        """
        write_json(self.path, {name: asdict(score) for name, score in scores.items()})
