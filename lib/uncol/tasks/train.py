"""Train task `uncol`: the datastore's cases in, a published student out."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list

from uncol.calibration.accuracy import shown_accuracy
from uncol.calibration.calibrate import FEWEST_LABELED, read_doubts
from uncol.data.cases import HELD_OUT_FROM
from uncol.datastores.pool import cases_of
from uncol.errors import RequestError, UncolError
from uncol.round_settings import RoundSettings
from uncol.settings import Settings
from uncol.tasks.device import device_of
from uncol.tasks.jobs import JOBS, Kind
from uncol.tasks.pending import PendingTraining
from uncol.tasks.priority import make_way
from uncol.tasks.requests import TrainRequest
from uncol.training.progress import ProgressFile, read_stats
from uncol.training.round import check_pool, train_idle, train_round
from uncol.versions.store import ModelStore

logger = logging.getLogger(__name__)

TRAINING_NICENESS = 5  # an annotator's request goes before training
IDLE_NICENESS = 15  # and everything else before the training that nobody asked for
MAX_STEP_SCALE = 20.0
SHOWN = 5  # labels in doubt that the statistics list
NOT_MEASURED = (
    f"Accuracy is not measured yet. From {HELD_OUT_FROM} labeled cases on, a fifth of them is held "
    f"out from training to measure it; from {FEWEST_LABELED} on it is cross-validated in the "
    "background after each training."
)


class UncolTrain(TrainTask):  # type: ignore[misc]
    """UnCoL on the labeled and unlabeled cases of the datastore."""

    def __init__(self, settings: Settings) -> None:
        """Make the task."""
        super().__init__("UnCoL: trains on the labeled cases and on all unlabeled ones")
        self.settings = settings
        self.folder = settings.folder

    def config(self) -> dict[str, Any]:
        """Return the options that Slicer shows.

        `step_scale` multiplies the planned steps, `labeled_only` allows a pool without unlabeled
        cases, `pretrained` goes on from the served version where that is possible.
        """
        return {
            "device": device_list(),
            "seed": 0,
            "step_scale": 1.0,
            "labeled_only": False,
            "pretrained": True,
        }

    def stats(self) -> dict[str, Any]:
        """Return the state of the running or last round, in the keys that Slicer reads."""
        stats = _state(self.folder.train_stats, "train")
        store = ModelStore(self.folder.root)
        version = store.current()
        if stats and version is not None:
            measured = shown_accuracy(store)
            stats["best_metric"] = measured.dice if measured else 0.0  # Slicer wants a number
            stats["accuracy"] = measured.model_dump() if measured else None
            stats["accuracy_note"] = measured.text if measured else NOT_MEASURED
            stats["label_check"] = [doubt.text for doubt in read_doubts(store, version)[:SHOWN]]
            stats["idle"] = _state(self.folder.idle_stats, "idle")
        return stats

    def check(self, asked: TrainRequest, datastore: Datastore) -> None:
        """Refuse at once what would only fail later in the child.

        Raises:
            TrainingError: the pool cannot be trained on.
            RequestError: an option has an impossible value.
        """
        options = self.options(asked)
        check_pool(
            sorted(datastore.get_labeled_images()),
            sorted(datastore.get_unlabeled_images()),
            labeled_only=options.labeled_only,
        )

    def options(self, asked: TrainRequest) -> RoundSettings:
        """Return the settings of a round.

        Raises:
            RequestError: an option has an impossible value.
        """
        seed, scale = asked.seed, asked.step_scale
        if not 0 <= seed < 2**32:
            raise RequestError(f"seed must be from 0 to {2**32 - 1}, got {seed}.")
        if not 0 < scale <= MAX_STEP_SCALE:
            raise RequestError(
                f"step_scale must be over 0 and at most {MAX_STEP_SCALE}, got {scale}."
            )
        return replace(
            self.settings.for_round(device_of(asked.device)),
            seed=seed,
            step_scale=scale,
            labeled_only=asked.labeled_only,
            pretrained=asked.pretrained,
        )

    def __call__(self, asked: TrainRequest, datastore: Datastore) -> dict[str, Any]:
        """Train and publish; returns the last state."""
        make_way(TRAINING_NICENESS)
        pending = PendingTraining(self.folder)
        progress = ProgressFile(self.folder.train_stats, self.folder.runs)
        try:
            cases = cases_of(datastore)
            outcome = train_round(cases, self.options(asked), progress)
        except Exception as error:  # what fails in an unforeseen way would fail again, too
            progress.finish("failed", error=_in_words(error))
            pending.over()
            raise
        pending.over()  # if anything else ends it, the next start of the server resumes it
        progress.done(outcome)
        logger.info("%s", outcome.verdict.reason)
        for name, reason in outcome.left_out.items():
            logger.warning("Left out %s: %s", name, reason)
        return self.stats()

    def go_on(self, datastore: Datastore) -> dict[str, Any]:
        """Let the served student go on learning; returns `stopped`, why not, or `version`."""
        make_way(IDLE_NICENESS)
        progress = ProgressFile(self.folder.idle_stats, self.folder.runs)
        try:
            settings = self.settings.for_round(device_of(None))
            outcome = train_idle(cases_of(datastore), settings, progress)
        except Exception as error:
            progress.finish("failed", error=_in_words(error))
            raise
        if isinstance(outcome, str):
            progress.finish(f"nothing to gain: {outcome}")
            return {"stopped": outcome}
        progress.done(outcome)
        logger.info("%s", outcome.verdict.reason)
        return {"version": outcome.version}


def _state(path: Path, kind: Kind) -> dict[str, Any]:
    """Return the state of the running or last training of a kind; empty before the first."""
    stats = read_stats(path)
    if stats and "total_time" not in stats and not JOBS.under_way(kind):
        stats |= _killed(stats.pop("current_time", "0:00:00"), kind)
    return stats


def _killed(after: str, kind: Kind) -> dict[str, str]:
    """Return the last state of a training whose process could not write it any more."""
    job = JOBS.last(kind)
    if job is None or job.status != "ERROR":
        return {"total_time": after, "phase": "stopped"}
    return {"total_time": after, "phase": "failed", "error": job.details[-1]}


def _in_words(error: Exception) -> str:
    """Return why a training failed."""
    if isinstance(error, UncolError):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "Memory ran out. Close other programs or use a smaller preset, then train again."
    return f"Unexpected {type(error).__name__}; the server's log has the trace."
