"""Plays the annotator over HTTP, with MONAI Label's own client."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uncol.data.scan import read_label, read_scan
from uncol.errors import UncolError
from uncol.server.client import MONAILabelClient
from uncol.types import Array
from uncol.versions.metrics import dice_per_label

AS_NIFTI = {"result_extension": ".nii.gz"}
POLL_S = 1.0


@dataclass(frozen=True)
class Annotated:
    """What happened to one annotated case.

    Attributes:
        case: its name.
        reason: why it was chosen.
        dice: Dice of the first mask by label, before correction.
        corrected: voxels that the annotator changed.
    """

    case: str
    reason: str
    dice: dict[str, float]
    corrected: int


@dataclass(frozen=True)
class DemoResult:
    """What the student makes of one case.

    Attributes:
        case: its name.
        scan: `(I, J, K)`.
        truth: `(I, J, K)` label values.
        label: `(I, J, K)` the student's.
        uncertainty: `(I, J, K)` in [0, 1].
        dice: Dice by label.
        estimate: the student's own estimate of its mean Dice.
    """

    case: str
    scan: Array
    truth: Array
    label: Array
    uncertainty: Array
    dice: dict[str, float]
    estimate: float


class Annotator:
    """Annotates with the true labels, which the server sees only as submitted labels."""

    def __init__(self, url: str, studies: Path, truth: Path, labels: Mapping[str, int]) -> None:
        """Connect.

        Args:
            url: the server.
            studies: its studies folder.
            truth: folder of true labels, named as the scans.
            labels: name to value.
        """
        self.client = MONAILabelClient(url, client_id="demo")
        self.studies = studies
        self.truth = truth
        self.labels = labels

    def annotate_next(self) -> Annotated:
        """Next sample, first mask (model if there is one, else prompts), correction, submit."""
        sample = self.client.next_sample("uncol", {})
        case = sample["id"]
        truth = self._truth(case)
        first = self._pre_label(case) if self._has_model() else self._prompted(case, truth)
        info = [{"name": name, "idx": value} for name, value in self.labels.items()]
        file = self.truth / Path(sample["path"]).name
        self.client.save_label(case, str(file), params={"label_info": info})
        changed = int((first != truth).sum())
        return Annotated(case, sample["reason"], dice_per_label(first, truth, self.labels), changed)

    def train(self, on_progress: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        """Train and wait.

        Args:
            on_progress: called with the server's training statistics about once a second.

        Raises:
            UncolError: training failed; the message holds the end of its log.
        """
        self.client.train_start("uncol", {})
        while True:
            time.sleep(POLL_S)
            state = self.client.train_status()
            stats = self.client.info()["train_stats"]["uncol"]
            on_progress(stats)
            if state["status"] == "DONE":
                return dict(stats)
            if state["status"] not in ("SUBMITTED", "RUNNING"):
                raise UncolError("Training failed:\n" + "\n".join(state.get("details", [])))

    def unlabeled(self) -> list[str]:
        """Return the cases without a submitted label, by name."""
        objects = self.client.datastore()["objects"]
        return sorted(name for name, item in objects.items() if "final" not in item["labels"])

    def result(self, case: str) -> DemoResult:
        """Request a case's label and map, and compare the label with the truth."""
        file, params = self.client.infer("uncol", case, {**AS_NIFTI, "save_label": True})
        label = self._array(file)
        uncertainty = read_scan(self._downloaded(case), case=case).array
        scan = read_scan(self._file(self.studies, case), case=case).array
        truth = self._truth(case)
        by_label = dice_per_label(label, truth, self.labels)
        return DemoResult(
            case, scan, truth, label, uncertainty, by_label, params["uncol"]["quality"]["dice"]
        )

    def prompted_dice(self, case: str) -> dict[str, float]:
        """Return the Dice of the foundation model by label, given a perfect box for each."""
        truth = self._truth(case)
        return dice_per_label(self._prompted(case, truth), truth, self.labels)

    def _has_model(self) -> bool:
        return "model_version" in self.client.info()["train_stats"]["uncol"]

    def _pre_label(self, case: str) -> Array:
        return self._array(self.client.infer("uncol", case, dict(AS_NIFTI))[0])

    def _prompted(self, case: str, truth: Array) -> Array:
        """Draw a box around each structure and let the foundation model fill it."""
        first = np.zeros_like(truth)
        for label, value in self.labels.items():
            voxels = np.argwhere(truth == value)
            if len(voxels) == 0:
                continue
            box = np.stack([voxels.min(axis=0), voxels.max(axis=0)], axis=1).ravel().tolist()
            file, _ = self.client.infer(
                "uncol_prompt", case, {**AS_NIFTI, "label": label, "roi": box}
            )
            first[self._array(file) == 1] = value
        return first

    def _downloaded(self, case: str) -> str:
        return str(self.client.download_label(case, "uncertainty"))

    def _truth(self, case: str) -> Array:
        return read_label(self._file(self.truth, case), case=case).array

    def _file(self, folder: Path, case: str) -> Path:
        return next(path for path in sorted(folder.glob(f"{case}.*")) if path.is_file())

    def _array(self, file: str) -> Array:
        array = read_label(file).array
        Path(file).unlink()
        return array
