"""What annotated cases show about a student that did not learn from them.

Kept case by case, so that a killed calibration resumes: one line per case with confidence, Dice and
doubt, and one file per case with the voxels near the predicted foreground.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from uncol.calibration.label_check import Doubt, check_label
from uncol.data.cases import Case
from uncol.data.crops import CropMap
from uncol.data.frame import make_frame
from uncol.data.labels import IGNORE_VALUE
from uncol.data.prepared import CaseStore, TrainingCase
from uncol.data.scan import read_grid
from uncol.errors import LabelError, ScanError
from uncol.generalist.open import open_generalist
from uncol.generalist.pool import Generalist
from uncol.inference.one_piece import keep_one_piece_
from uncol.inference.predict import predict
from uncol.method.recipe import RECIPES
from uncol.networks.student import Student
from uncol.round_settings import RoundSettings
from uncol.storage.ledger import Ledger, Record
from uncol.storage.model_folder import VersionNotes
from uncol.training.reporter import Reporter
from uncol.types import Array
from uncol.uncertainty.calibration import Voxels
from uncol.uncertainty.maps import entropy, most_probable, near, soft_dice_confidence
from uncol.versions.manifest import Manifest
from uncol.versions.metrics import dice_per_label

logger = logging.getLogger(__name__)

MAX_KEPT_VOXELS = 20_000  # per case
LOOKED_SLICES = 6  # per annotated case, for the generalist to look at


class Evidence(Record):
    """What a case showed about a student that did not train on it.

    Attributes:
        confidence: Soft Dice Confidence by label; None where the student found none.
        dice: true Dice by label; None where neither student nor annotation has it.
        doubt: where specialist and generalist contradict its label; None if they do not.
    """

    confidence: dict[str, float | None]
    dice: dict[str, float | None]
    doubt: Doubt | None


@dataclass(frozen=True)
class CasePrediction:
    """A student's prediction of a case and what it is worth.

    Attributes:
        probs: `(C, I, J, K)` in the working frame, stray pieces included: the label check asks
            what the student says, not what is served.
        predicted: `(I, J, K)`, their most probable class.
        voxels: those near the predicted foreground, as served.
        confidence: Soft Dice Confidence by label; NaN where none was found, and for all labels of
            a partly annotated case.
        dice: true Dice by label; NaN where neither student nor annotation has it.
    """

    probs: Tensor
    predicted: Tensor
    voxels: Voxels
    confidence: dict[str, float]
    dice: dict[str, float]


class Judge:
    """Looks at annotated cases with a student and writes down what they show.

    Attributes:
        evidence: what was written down so far, by case.
    """

    def __init__(
        self, manifest: Manifest, settings: RoundSettings, notes: VersionNotes, reporter: Reporter
    ) -> None:
        """Make one.

        Args:
            manifest: of the version that is calibrated; all students judged are of its kind.
            settings: as for training.
            notes: where evidence is kept.
            reporter: receives the phases.
        """
        self.manifest = manifest
        self.settings = settings
        self.notes = notes
        self.evidence: Ledger[Evidence] = Ledger(notes.evidence, Evidence)
        self.reporter = reporter
        self._generalist: Generalist | None = None
        self._paths: dict[str, Path] = {}
        self._prepared = CaseStore(
            settings.folder.prepared_cache,
            manifest.space,
            modality=manifest.modality,
            labels=manifest.labels,
        )

    def load(self, cases: Sequence[Case]) -> list[TrainingCase]:
        """Prepare annotated cases and show them to the generalist; damaged ones are left out."""
        self._paths.update({case.name: case.image for case in cases})
        loaded = list(self.read(cases))
        self.reporter.phase("calibrating: opening the generalist")
        self._generalist = open_generalist(loaded, RECIPES[self.settings.mode], self.settings)
        if self._generalist is not None:
            classes = len(self.manifest.labels) + 1
            for case in loaded:
                self._generalist.look(case, LOOKED_SLICES)
                self._generalist.prompt_annotation(case, classes)
            self._generalist.weigh(loaded, classes)
        return loaded

    def read(self, cases: Sequence[Case]) -> Iterator[TrainingCase]:
        """Prepare cases in the order of their names; damaged ones are left out, and logged."""
        for case in sorted(cases, key=lambda case: case.name):
            try:
                yield self._prepared.load(case)
            except (LabelError, ScanError) as error:
                logger.warning("Left out of calibration: %s", error)

    def see(self, case: TrainingCase, student: Student) -> CasePrediction:
        """Predict a case; if it is not annotated, ignore the result's truth and Dice."""
        device, labels = self.settings.device, self.manifest.labels
        probs = predict(student, case.tensor(), self.manifest.window, device=device).probs
        predicted = most_probable(probs)
        served, as_served = probs, predicted
        if self.manifest.one_piece:
            served, as_served = probs.clone(), predicted.clone()
            keep_one_piece_(served, as_served, self.manifest.one_piece)
        truth = np.zeros(predicted.shape, dtype=np.uint8) if case.label is None else case.label[0]
        sure = soft_dice_confidence(served, as_served).tolist()
        if (truth == IGNORE_VALUE).any():  # Dice of a part says nothing about the whole
            sure = [float("nan")] * len(sure)
        return CasePrediction(
            probs,
            predicted,
            _sample(served.numpy(), truth, near(as_served > 0).numpy()),
            {name: sure[value - 1] for name, value in labels.items()},
            dice_per_label(as_served.numpy(), truth, labels),
        )

    def look(self, cases: Sequence[TrainingCase], student: Student) -> None:
        """Judge a student on cases that have not been judged yet.

        Raises:
            LabelError: one is not annotated.
            StorageError: something could not be written.
        """
        for case in cases:
            if case.name not in self.evidence.read():
                self._one(case, student)

    def _one(self, case: TrainingCase, student: Student) -> None:
        if case.label is None:
            raise LabelError(f"Case '{case.name}' is not annotated.")
        seen, labels = self.see(case, student), self.manifest.labels
        self.notes.folder.mkdir(parents=True, exist_ok=True)
        probs = seen.voxels.probs.astype(np.float16)
        np.savez(self.notes.voxels(case.name), probs=probs, truth=seen.voxels.truth)
        general = None
        if self._generalist is not None:
            unsure = entropy(seen.probs, dim=0)
            self._generalist.prompt(case, seen.predicted.long(), len(labels) + 1, unsure)
            general = self._generalist.probs(case.name, CropMap.whole(case.shape), len(labels) + 1)
        frame = make_frame(read_grid(self._paths[case.name], case=case.name), self.manifest.space)
        self.evidence.add(
            Evidence(
                case=case.name,
                confidence={name: _or_none(value) for name, value in seen.confidence.items()},
                dice={name: _or_none(value) for name, value in seen.dice.items()},
                doubt=check_label(
                    case.name, case.label[0], seen.probs, general, frame=frame, labels=labels
                ),
            )
        )


def read_voxels(notes: VersionNotes, case: str) -> Voxels:
    """Return the voxels that were kept of a judged case."""
    with np.load(notes.voxels(case)) as held:
        return Voxels(held["probs"].astype(np.float32), held["truth"])


def _sample(probs: Array, truth: Array, around: Array) -> Voxels:
    chosen = np.flatnonzero(around & (truth != IGNORE_VALUE))
    if len(chosen) > MAX_KEPT_VOXELS:
        chosen = np.random.default_rng(0).choice(chosen, MAX_KEPT_VOXELS, replace=False)
    return Voxels(
        probs.reshape(len(probs), -1)[:, chosen].T, truth.ravel()[chosen].astype(np.int64)
    )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
