"""Scoring methods: `uncol` scores unlabeled cases, `dice` compares two label tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.utils.others.generic import name_to_device

from uncol.data.scan import read_label, read_scan
from uncol.errors import RequestError, ScanError
from uncol.inference.outputs import summary
from uncol.selection.scores import Score, ScoreFile
from uncol.tasks.served import ServedStudent
from uncol.training.evaluate import dice_per_label, mean_of


class UncolScoring(ScoringMethod):  # type: ignore[misc]
    """Scores every unlabeled case that the current version has not scored."""

    def __init__(self, served: ServedStudent) -> None:
        """Make the method."""
        super().__init__("Estimated quality and uncertainty of every unlabeled case")
        self.served = served

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score; returns how many were scored, skipped as done, and left out with the reason."""
        served = self.served.get(name_to_device(request.get("device")))
        manifest = served.manifest
        kept = ScoreFile(self.served.store.folder, manifest.version)
        scores = kept.read()
        waiting = [n for n in sorted(datastore.get_unlabeled_images()) if n not in scores]
        left_out: dict[str, str] = {}
        for name in waiting:
            try:
                scan = read_scan(datastore.get_image_uri(name), case=name)
            except ScanError as error:
                left_out[name] = str(error)
                continue
            result = served.segment(scan)
            told = summary(result, manifest.labels, version=manifest.version)
            quality = float(told["quality"]["dice"])
            unsure = float(told["uncertainty"]["mean_foreground"])
            reason = f"Estimated Dice {quality:.2f}, mean uncertainty {unsure:.2f}."
            scores[name] = Score(quality, unsure, reason)
            kept.write(scores)
        done = len(waiting) - len(left_out)
        return {"scored": done, "skipped": len(scores) - done, "left_out": left_out}


class DiceScoring(ScoringMethod):  # type: ignore[misc]
    """Dice of two label tags, a label each. MONAI Label's own sums label values (0.7)."""

    def __init__(self, labels: Mapping[str, int]) -> None:
        """Make the method for the app's labels."""
        super().__init__("Dice of two label tags, per label")
        self.labels = labels

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Compare tags `y_pred` (default `original`) and `y` (default `final`) of each case.

        Raises:
            RequestError: both tags are the same.
        """
        predicted = str(request.get("y_pred", "original"))
        truth = str(request.get("y", "final"))
        if predicted == truth:
            raise RequestError(f"Dice needs two different label tags, both are '{truth}'.")
        result: dict[str, Any] = {}
        for name in datastore.list_images():
            paths = [datastore.get_label_uri(name, tag) for tag in (predicted, truth)]
            if not all(paths):
                continue
            first, second = (read_label(path, case=name).array for path in paths)
            if first.shape != second.shape:
                result[name] = {"error": "the two labels have different shapes"}
                continue
            values = dice_per_label(first, second, self.labels)
            result[name] = {"dice": mean_of(values), "per_label": values}
        return result
