"""What the server's routes ask for: each request is checked here, then done or started."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from uncol.data.scan import read_label, read_map
from uncol.datastores.studies import NEEDS_PACS, UncolDatastore
from uncol.errors import BusyError, NoLongerWantedError, RequestError, ScanError, UncolError
from uncol.storage.plain import shown
from uncol.tasks.infer import StudentParams
from uncol.tasks.jobs import JOBS, Job
from uncol.tasks.pending import PendingTraining, refuse_second
from uncol.tasks.requests import (
    BatchRequest,
    InferRequest,
    InferWork,
    SampleRequest,
    ScoringRequest,
    TrainRequest,
)
from uncol.tasks.train import UncolTrain
from uncol.wanted import wanted_until

logger = logging.getLogger(__name__)

MAX_SKIPPED = 20  # unreadable cases that one Next Sample passes over
MAP_TAG = "uncertainty"
Images = Literal["all", "labeled", "unlabeled"]


@dataclass(frozen=True)
class Source:
    """The scan that an infer is about.

    Attributes:
        case: a case's name; None for an upload.
        file: an uploaded file, or a folder of DICOM files; None for a case.
    """

    case: str | None = None
    file: Path | None = None


@dataclass(frozen=True)
class InferAnswer:
    """What an infer gave.

    Attributes:
        file: the result's file in the request's folder.
        params: what goes to the client beside it.
    """

    file: Path
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Tasks:
    """The app's tasks by name, as MONAI Label knows them."""

    infers: Mapping[str, Any]
    trainers: Mapping[str, Any]
    strategies: Mapping[str, Any]
    scorings: Mapping[str, Any]


class Host(Protocol):
    """The app, as its desk and its routes see it."""

    @property
    def pool(self) -> UncolDatastore | None:
        """The pool, if it is one of ours."""

    def datastore(self) -> Datastore:
        """Return the pool."""

    def info(self) -> Mapping[str, Any]:
        """Return what the app reports to clients."""


class Desk:
    """Takes requests; bodies are what clients sent."""

    def __init__(
        self, host: Host, tasks: Tasks, labels: Mapping[str, int], pending: PendingTraining
    ) -> None:
        """Open it.

        Args:
            host: the app.
            tasks: its tasks.
            labels: its labels.
            pending: the training that was asked for and is not over.
        """
        self.host = host
        self.tasks = tasks
        self._labels = labels
        self._pending = pending
        self._own_scoring: Job | None = None

    def options(self, body: Mapping[str, Any]) -> InferRequest:
        """Return the options of an infer.

        Raises:
            RequestError: an option is unknown or impossible.
        """
        return InferRequest.of(body, list(self._labels))

    def answer(self, model: str, source: Source, asked: InferRequest, folder: Path) -> InferAnswer:
        """Run an infer task; a saved result brings its uncertainty map along.

        Args:
            model: the task's name.
            source: a case, or an upload.
            asked: the client's options.
            folder: where results are written; it goes with the request.

        Raises:
            RequestError: there is no such model or case, or what is to be saved is not a pre-label.
            ScanError: the scan cannot be used.
        """
        task = _choose(self.tasks.infers, model, "model")
        _check_saved(model, asked)
        if asked.to_pacs and not (self.host.pool and self.host.pool.takes_results and source.case):
            raise RequestError(NEEDS_PACS)
        if source.file is not None:  # its result belongs to no case
            asked = asked.model_copy(update={"save_label": False})
        image = source.file or self._scan_of(source.case)
        file, params = task(InferWork(image, source.case, asked, folder))
        if isinstance(params, StudentParams) and params.map_file is not None:
            self._keep(str(source.case), asked, file, params, params.map_file)
        return InferAnswer(file, params)

    def next_case(self, strategy: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the next case, with its scan at hand.

        Raises:
            RequestError: there is no such strategy, or an option is unknown or impossible.
        """
        chosen = _choose(self.tasks.strategies, strategy, "strategy")
        asked = SampleRequest.of(body)
        for _ in range(MAX_SKIPPED):
            sample: dict[str, Any] = chosen(asked, self.host.datastore())
            if not sample:
                return {}
            try:
                sample["path"] = self.host.datastore().get_image_uri(sample["id"])
            except ScanError as error:  # a series of the PACS that is not a volume is left out now
                logger.warning("Next sample: %s", error)
                continue
            pool = self.host.pool
            if pool is None or pool.is_readable(sample["id"]):
                return sample
        raise RequestError(f"{MAX_SKIPPED} cases in a row could not be read; see the log.")

    def start_training(self, model: str, body: Mapping[str, Any]) -> Job:
        """Start a training that can succeed; background scoring stops first and resumes later.

        Raises:
            RequestError: there is no such trainer, or an option is unknown or impossible.
            TrainingError: the pool cannot be trained on.
            BusyError: a training is under way.
        """
        with self._pending.accepting:
            refuse_second()
            asked = self._check_training(model, body)
            self._pending.note(asked.model_dump())
            return JOBS.start("train", {"model": model, **asked.model_dump()})

    def stop_training(self) -> Job | None:
        """Stop the training under way and forget it."""
        with self._pending.accepting:
            self._pending.over()
            JOBS.stop("idle")
            return JOBS.stop("train")

    def go_on_training(self) -> None:
        """Resume the training that was under way when the server died, if there was one."""
        with self._pending.accepting:
            options = self._pending.resume()
            if options is None or JOBS.under_way("train"):  # somebody has pressed Train meanwhile
                return
            try:
                asked = self._check_training("uncol", options)
            except UncolError as error:
                logger.warning("The training before the restart is not resumed: %s", error)
                self._pending.over()
                return
            logger.info("Resuming the training that was under way before the restart")
            JOBS.start("train", {"model": "uncol", **asked.model_dump()})

    def start_scoring(self, method: str, body: Mapping[str, Any], *, queue: bool = False) -> Job:
        """Start a scoring.

        Args:
            method: which.
            body: the client's options.
            queue: whether it may wait for the one under way.

        Raises:
            RequestError: there is no such method, or an option is unknown or impossible.
            BusyError: a scoring is under way.
        """
        _choose(self.tasks.scorings, method, "scoring method")
        asked = ScoringRequest.of(without(body, method=method))
        if self._own_scoring is not None and not self._own_scoring.over.is_set():
            JOBS.stop("scoring")  # a person goes first; it goes on afterwards
        JOBS.stop("idle")
        if JOBS.under_way("scoring") and not queue:
            raise BusyError("A scoring is already under way. Wait for it, or stop it.")
        return JOBS.start("scoring", {"method": method, **asked.model_dump()})

    def score_by_itself(self) -> None:
        """Start the scoring that nobody asked for; it gives way to any that somebody asks for."""
        self._own_scoring = self.start_scoring("uncol", {})

    def learn_by_itself(self) -> Job | None:
        """Start the training that nobody asked for; None if somebody has asked for one by now.

        It gives way to all that somebody asks for.
        """
        with self._pending.accepting:
            return None if JOBS.under_way("train") else JOBS.start("idle", {})

    def start_batch(self, model: str, images: Images, body: Mapping[str, Any]) -> Job:
        """Start an infer of many cases, in a thread of the server.

        Raises:
            RequestError: there is no such model, or an option is unknown or impossible.
            BusyError: one is under way.
        """
        _choose(self.tasks.infers, model, "model")
        asked = BatchRequest.of(body, list(self._labels))
        _check_saved(model, asked)
        if JOBS.under_way("batch_infer"):
            raise BusyError("A batch infer is already under way. Wait for it, or stop it.")
        request = {"model": model, "images": images, **asked.model_dump()}
        return JOBS.start("batch_infer", request, lambda job: self._batch(job, model, asked))

    def _scan_of(self, case: str | None) -> Path:
        store = self.host.datastore()
        known = store.get_image_info(case) if case else {}
        if known.get("unusable"):
            raise ScanError(str(known["unusable"]))
        if case is None or case not in store.list_images():
            raise RequestError(
                f"There is no case {shown(case)} in the studies folder. Fetch it with Next "
                "Sample, or upload the scan first."
            )
        return Path(store.get_image_uri(case))

    def _keep(
        self, case: str, asked: InferRequest, label: Path, params: StudentParams, doubt: Path
    ) -> None:
        store = self.host.datastore()
        if asked.save_label:
            info = {"model": "uncol", "params": dict(params)}
            store.save_label(case, str(label), DefaultLabelTag.ORIGINAL, info)
            store.save_label(case, str(doubt), MAP_TAG, {"params": params["uncol"]})
            params["uncertainty"] = {"label": case, "tag": MAP_TAG}
        if asked.to_pacs and self.host.pool is not None:
            array = read_label(label, case=case).array
            uncertainty = read_map(doubt, case=case)
            version = params["uncol"]["model_version"]
            params["pacs"] = self.host.pool.publish_result(case, array, uncertainty, version)

    def _check_training(self, model: str, body: Mapping[str, Any]) -> TrainRequest:
        trainer: UncolTrain = _choose(self.tasks.trainers, model, "trainer")
        asked = TrainRequest.of(without(body, model=model))
        trainer.check(asked, self.host.datastore())
        JOBS.stop("scoring")  # it would judge a model that is about to be replaced
        JOBS.stop("idle")
        return asked

    def _batch(self, job: Job, model: str, asked: BatchRequest) -> dict[str, Any]:
        store = self.host.datastore()
        names = {
            "all": store.list_images,
            "labeled": store.get_labeled_images,
            "unlabeled": store.get_unlabeled_images,
        }[job.request["images"]]()
        chosen = names[: asked.max_batch_size or None]
        answers: dict[str, Any] = {}
        for number, name in enumerate(chosen, start=1):
            if job.over.is_set():
                break
            with tempfile.TemporaryDirectory(prefix="batch-") as folder:
                try:
                    with wanted_until(job.over.is_set):
                        answer = self.answer(model, Source(case=name), asked, Path(folder))
                    answers[name] = {"params": answer.params}
                except NoLongerWantedError:  # the batch was stopped
                    break
                except UncolError as error:  # one bad scan must not hold up the others
                    answers[name] = {"error": str(error)}
            job.details.append(f"{number} of {len(chosen)}: {name}")
        return answers


def without(body: Mapping[str, Any], **address: str) -> dict[str, Any]:
    """Return a body without what repeats the request's address, as some clients do."""
    return {word: value for word, value in body.items() if address.get(word, object()) != value}


def _choose(tasks: Mapping[str, Any], name: str, kind: str) -> Any:
    """Return a task by its name.

    Raises:
        RequestError: there is none.
    """
    if name not in tasks:
        raise RequestError(f"There is no {kind} {shown(name)}; choose one of {', '.join(tasks)}.")
    return tasks[name]


def _check_saved(model: str, asked: InferRequest) -> None:
    """Let only the student's label be saved by an infer, and never as a submitted one.

    Raises:
        RequestError: something else is to be saved.
    """
    if not asked.save_label:
        return
    if model != "uncol":
        raise RequestError(f"save_label is for the model uncol; {model}'s result is no label.")
    if asked.label_tag not in (None, "", DefaultLabelTag.ORIGINAL):
        raise RequestError(
            f"A model's result is saved under the tag 'original', not {shown(asked.label_tag)}; "
            "'final' is what a person has submitted."
        )
