"""What the server does by itself while it runs: rank, take up maps, start scoring."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from monailabel.interfaces.datastore import DefaultLabelTag

from uncol.calibration.calibrate import read_doubts
from uncol.data.scan import read_label, read_map
from uncol.datastores.pool import pool_of
from uncol.datastores.studies import UncolDatastore
from uncol.errors import PacsError, UncolError
from uncol.selection.queue import Queue
from uncol.selection.scores import Score, scores_of
from uncol.selection.survey import Missing, missing
from uncol.server.attendance import ATTENDANCE
from uncol.server.desk import MAP_TAG, Desk
from uncol.settings import Settings
from uncol.tasks.jobs import JOBS, Job, Kind
from uncol.versions.store import ModelStore

logger = logging.getLogger(__name__)

TEND_EVERY_S = 2.0
FIRST_AFTER_S = 5.0  # a viewer that has just connected goes first
COMPUTING: tuple[Kind, ...] = ("train", "scoring", "batch_infer", "idle")
LearnedFrom = tuple[int | None, frozenset[str]]  # the served version and the labeled cases


class Caretaker:
    """Keeps the pool's order, maps and scores up to date, so that no request waits for them.

    Scoring runs in a child process, which only writes side-car files; this thread of the server
    takes them up (docs/monai-label.md section 7).
    """

    def __init__(
        self,
        store: ModelStore,
        queue: Queue,
        settings: Settings,
        pool: UncolDatastore,
        desk: Desk,
    ) -> None:
        """Make one; it does nothing before `start`."""
        self._pool = pool
        self._store = store
        self._queue = queue
        self._settings = settings
        self._desk = desk
        self._tried: tuple[int | None, Missing] | None = None
        self._doubted: int | None = None
        self._learning: tuple[Job, LearnedFrom] | None = None

    def start(self) -> None:
        """Tend from now on, in a thread that ends with the server."""
        threading.Thread(target=self._run, name="caretaker", daemon=True).start()

    def tend(self) -> None:
        """Do once whatever there is to do.

        Raises:
            UncolError: something could not be read or written; it is tried again next time.
        """
        self._give_way()
        waiting, labeled = pool_of(self._pool)
        self._queue.refresh(waiting=waiting, labeled=labeled, stamp_of=self._pool.stamp_of)
        self._take_up_maps(waiting | labeled)
        self._tell_doubts()
        self._score(waiting, labeled)
        self._go_on_learning(labeled)

    def _run(self) -> None:
        time.sleep(FIRST_AFTER_S)
        step = self._desk.go_on_training  # once, then tend
        while True:
            try:
                step()
            except (UncolError, OSError) as error:
                logger.warning("In the background: %s", error)
            except Exception:  # a thread that dies in silence would stop all scoring
                logger.exception("In the background")
            step = self.tend
            time.sleep(TEND_EVERY_S)

    def _score(self, waiting: set[str], labeled: set[str]) -> None:
        """Start scoring if something is missing and nothing else computes.

        The same cases are tried only once: what is missing after that cannot be read.
        """
        if JOBS.under_way("train"):
            self._tried = None  # the training stopped a scoring that may not have got far
        if JOBS.under_way("train") or JOBS.under_way("scoring"):
            return
        version, generalist = self._store.current(), self._settings.generalist
        stamps = {name: self._pool.stamp_of(name) for name in sorted(waiting | labeled)}
        unlabeled = {name: stamps[name] for name in sorted(waiting)}
        left = missing(self._store, generalist, unlabeled=unlabeled, everyone=stamps)
        if left and self._tried != (version, left):
            self._tried = (version, left)
            logger.info("Scoring in the background: %s", left.text)
            self._desk.score_by_itself()

    def _go_on_learning(self, labeled: set[str]) -> None:
        """Let the student learn while nobody works, until nothing is gained from these labels."""
        learns_from: LearnedFrom = (self._store.current(), frozenset(labeled))
        version, _ = learns_from
        if version is None or self._settings.idle_training == "off":
            return
        if self._somebody_works() or any(map(JOBS.under_way, COMPUTING)):
            return
        if self._learned_out(learns_from):
            return
        started = self._desk.learn_by_itself()
        if started is not None:
            logger.info("Nobody works: version %s goes on learning", version)
            self._learning = (started, learns_from)

    def _learned_out(self, learns_from: LearnedFrom) -> bool:
        """Say whether the last try ended without a version, and nothing is new since."""
        if self._learning is None:
            return False
        job, before = self._learning
        in_vain = job.status == "ERROR" or "stopped" in (job.result or {})
        return in_vain and before == learns_from

    def _give_way(self) -> None:
        """End the training that nobody asked for when somebody works.

        For a request it stands still anyway, but it keeps its memory.
        """
        if self._somebody_works():
            JOBS.stop("idle")

    def _somebody_works(self) -> bool:
        return ATTENDANCE.idle_s() < self._settings.idle_after_s

    def _take_up_maps(self, names: set[str]) -> None:
        version = self._store.current()
        if version is None or not self._pool.writable:
            return
        notes, scores = self._store.folder.notes(version), scores_of(self._store.folder, version)
        written = {path.name: path for path in notes.maps.glob("*.nii.gz")}
        if not written:
            return
        for score in scores.read().values():
            path = written.get(score.map_file)
            if path is None or score.case not in names:
                continue
            label = notes.pre_labels / path.name
            if score.holds_for(self._pool.stamp_of(score.case)):
                self._take_up(score, path, label, version)
            else:  # of the scan that was there before
                path.unlink()
                label.unlink(missing_ok=True)

    def _take_up(self, score: Score, path: Path, label: Path, version: int) -> None:
        """Keep a case's label (tag `original`, which viewers load) and map, and publish them."""
        store, labels = self._pool, self._settings.labels
        note = {"model_version": version}
        try:
            if label.exists():
                params = {"label_names": dict(labels), "uncol": note}
                info = {"model": "uncol", "params": params}
                store.save_label(score.case, str(label), DefaultLabelTag.ORIGINAL, info)
            store.save_label(score.case, str(path), MAP_TAG, {"params": note})
        except UncolError as error:  # one map must not hold up the others
            logger.warning("The uncertainty map of case '%s' was not kept: %s", score.case, error)
            return
        try:
            if self._settings.pacs_results == "scored" and store.takes_results:
                array = read_label(label, case=score.case).array
                store.publish_result(score.case, array, read_map(path, case=score.case), version)
        except PacsError as error:  # tried again in a moment
            logger.warning("The results of case '%s' wait for the PACS: %s", score.case, error)
            return
        except UncolError as error:
            logger.warning("Case '%s' has no results in the PACS: %s", score.case, error)
        label.unlink(missing_ok=True)
        path.unlink()

    def _tell_doubts(self) -> None:
        version = self._store.current()
        if version is None or version == self._doubted:
            return
        if not self._store.folder.notes(version).doubts.exists():
            return
        self._doubted = version
        for doubt in read_doubts(self._store, version):
            logger.warning("Label worth a second look: %s", doubt.text)
