"""Scoring methods: `uncol` surveys the pool, `dice` compares two label tags."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from uncol.data.annotation import read_annotation
from uncol.data.cases import Case
from uncol.data.scan import read_grid
from uncol.datastores.pool import cases_of
from uncol.errors import RequestError, UncolError
from uncol.selection.survey import survey
from uncol.settings import Settings
from uncol.storage.plain import plain_name
from uncol.tasks.device import device_of
from uncol.tasks.priority import make_way
from uncol.tasks.requests import ScoringRequest
from uncol.training.reporter import Reporter
from uncol.versions.metrics import dice_per_label, mean_of

logger = logging.getLogger(__name__)

SCORING_NICENESS = 10  # behind training, which is behind an annotator's request


class LogReporter(Reporter):
    """Writes phases to the log."""

    def phase(self, text: str) -> None:
        """Write a phase."""
        logger.info("%s", text)


class UncolScoring(ScoringMethod):  # type: ignore[misc]
    """Calibrates the current version and scores every unlabeled case it has not scored."""

    def __init__(self, settings: Settings) -> None:
        """Make the method."""
        super().__init__("Estimated quality, uncertainty and places of every unlabeled case")
        self.settings = settings

    def __call__(self, asked: ScoringRequest, datastore: Datastore) -> dict[str, Any]:
        """Score; returns how many were scored, skipped as done, and left out with the reason."""
        make_way(SCORING_NICENESS)
        cases = cases_of(datastore)
        settings = self.settings.for_round(device_of(asked.device))
        return asdict(survey(cases, settings, LogReporter()))


class DiceScoring(ScoringMethod):  # type: ignore[misc]
    """Dice of two label tags, per label.

    MONAI Label's own sums label values (docs/monai-label.md section 0.7).
    """

    def __init__(self, labels: Mapping[str, int]) -> None:
        """Make the method for the app's labels."""
        super().__init__("Dice of two label tags, per label")
        self.labels = labels

    def __call__(self, asked: ScoringRequest, datastore: Datastore) -> dict[str, Any]:
        """Compare tags `y_pred` (default `original`) and `y` (default `final`) of each case.

        Raises:
            RequestError: both tags are the same.
        """
        predicted, truth = (plain_name(tag, "label tag") for tag in (asked.y_pred, asked.y))
        if predicted == truth:
            raise RequestError(f"Dice needs two different label tags, both are '{truth}'.")
        result: dict[str, Any] = {}
        for name in datastore.list_images():
            paths = [datastore.get_label_uri(name, tag) for tag in (predicted, truth)]
            if all(paths):
                result[name] = self._compared(datastore, name, paths)
        return result

    def _compared(self, datastore: Datastore, name: str, paths: Sequence[str]) -> dict[str, Any]:
        """Compare two labels of a case; one that cannot be read does not hold up the others."""
        try:
            scan = Path(datastore.get_image_uri(name))
            grid = read_grid(scan, case=name)
            first, second = (
                read_annotation(Case(name, scan, Path(path)), grid, self.labels, empty_ok=True)
                for path in paths
            )
        except UncolError as error:
            return {"error": str(error)}
        values = dice_per_label(first, second, self.labels)
        return {"dice": mean_of(values), "per_label": values}
