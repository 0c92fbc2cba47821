"""The MONAI Label app: settings in, tasks wired."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from monailabel.config import settings as server_settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.async_tasks.utils import stop_background_task

from uncol import __version__
from uncol.data.scan import read_label, read_map
from uncol.datastores.connect import connect, mirror_folder
from uncol.datastores.pacs import PacsDatastore
from uncol.datastores.studies import NEEDS_PACS, UncolDatastore
from uncol.errors import RequestError, ScanError, UncolError
from uncol.selection.queue import Queue
from uncol.server.caretaker import MAP_TAG, Caretaker
from uncol.server.install import mend_server
from uncol.settings import parse_settings
from uncol.tasks.infer import StudentParams, student_tasks
from uncol.tasks.pending import PendingTraining, under_way
from uncol.tasks.prompt import PromptTask
from uncol.tasks.results import is_on
from uncol.tasks.scoring import DiceScoring, UncolScoring
from uncol.tasks.served import ServedStudent
from uncol.tasks.strategy import strategies
from uncol.tasks.train import UncolTrain
from uncol.versions.store import ModelStore

logger = logging.getLogger(__name__)

MAX_SKIPPED = 20  # unreadable cases that one Next Sample passes over


class UncolApp(MONAILabelApp):  # type: ignore[misc]
    """UnCoL: annotate a few, train on all, look where the model is unsure."""

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        """Start the app; the signature is MONAI Label's.

        Raises:
            SettingsError: one or more `--conf` pairs are wrong.
        """
        self.uncol, notes = parse_settings(conf)
        for note in notes:
            logger.warning(note)
        self.models = ModelStore(self.uncol.model_dir)
        self.served = ServedStudent(self.models, self.uncol.labels)
        self.queue = Queue(self.models, self.uncol.generalist)
        self.pending = PendingTraining(self.models.folder)
        super().__init__(
            app_dir,
            studies,
            dict(conf),
            name="UnCoL",
            description="Semi-supervised segmentation from a few labels, with uncertainty",
            version=__version__,
            labels=list(self.uncol.labels),
        )
        self._auto_update_scoring = False  # MONAI Label would score at each start and click

    def init_datastore(self) -> Datastore:
        """Return the studies folder, the PACS at a URL, or MONAI Label's own XNAT or DSA store."""
        if self.studies.startswith(("http://", "https://")):
            if server_settings.MONAI_LABEL_DATASTORE.lower() in ("xnat", "dsa"):
                return super().init_datastore()
            url = self.studies.strip().rstrip("/")
            return PacsDatastore(
                mirror_folder(url),
                connect(url, self.uncol.modality),
                labels=self.uncol.labels,
                read_only=server_settings.MONAI_LABEL_DATASTORE_READ_ONLY,
            )
        return UncolDatastore(
            self.studies,
            labels=self.uncol.labels,
            extensions=server_settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=server_settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=server_settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    @property
    def pool(self) -> UncolDatastore | None:
        """The pool, if it is one of ours: MONAI Label's XNAT and DSA stores have less to offer."""
        store = self.datastore()
        return store if isinstance(store, UncolDatastore) else None

    def init_infers(self) -> dict[str, InferTask]:
        """Return infer tasks, the student first."""
        pool = self.pool
        to_pacs = pool is not None and pool.takes_results
        tasks = student_tasks(self.served, self.uncol.labels, to_pacs=to_pacs)
        return {**tasks, "uncol_prompt": PromptTask(self.uncol)}

    def init_trainers(self) -> dict[str, TrainTask]:
        """Return the train task."""
        return {"uncol": UncolTrain(self.uncol)}

    def init_strategies(self) -> dict[str, Strategy]:
        """Return strategies, `uncol` first."""
        return strategies(self.queue)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Return scoring methods."""
        return {"uncol": UncolScoring(self.uncol), "dice": DiceScoring(self.uncol.labels)}

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> Any:
        """Run an infer task; a saved result brings its uncertainty map along.

        Raises:
            RequestError: there is no such model, the image is neither a case nor an upload, or what
                is to be saved is not a pre-label.
        """
        model = request.get("model")
        if not isinstance(model, str) or model not in self._infers:
            raise RequestError(
                f"There is no model {str(model)[:80]!r}; choose one of {', '.join(self._infers)}."
            )
        store = datastore or self.datastore()
        image = request.get("image")
        self._check_image(image, store)
        saved = is_on(request.get("save_label", False))
        if saved:
            _check_saved(model, request.get("label_tag"))
        asked = {**request, "case": str(image), "save_label": saved}
        result = super().infer(asked, datastore)
        params = result["params"]
        if isinstance(params, StudentParams) and params.map_file is not None:
            try:
                self._keep(request, store, result, params.map_file)
            finally:
                params.map_file.unlink(missing_ok=True)
        return result

    def _keep(
        self, request: Mapping[str, Any], store: Datastore, result: dict[str, Any], path: Path
    ) -> None:
        image, params = str(request["image"]), result["params"]
        if is_on(request.get("save_label", False)):
            store.save_label(image, str(path), MAP_TAG, {"params": params["uncol"]})
            params["uncertainty"] = {"label": image, "tag": MAP_TAG}
        if is_on(request.get("to_pacs", False)):
            if not (isinstance(store, UncolDatastore) and store.takes_results):
                raise RequestError(NEEDS_PACS)
            label = read_label(result["file"], case=image).array
            version = params["uncol"]["model_version"]
            uncertainty = read_map(path, case=image)
            params["pacs"] = store.publish_result(image, label, uncertainty, version)

    def next_sample(self, request: Mapping[str, Any]) -> Any:
        """Return the next case.

        Raises:
            RequestError: there is no such strategy.
        """
        name = request.get("strategy")
        if name and (not isinstance(name, str) or name not in self._strategies):
            raise RequestError(
                f"There is no strategy '{name}'; choose one of {', '.join(self._strategies)}."
            )
        for _ in range(MAX_SKIPPED):
            try:
                return super().next_sample(request)
            except ScanError as error:  # a series of the PACS that is not a volume is left out now
                logger.warning("Next sample: %s", error)
        raise RequestError(f"{MAX_SKIPPED} cases in a row could not be read; see the log.")

    def check_training(self, model: str, request: Mapping[str, Any]) -> None:
        """Refuse a training that cannot succeed, before a child process starts.

        If it can succeed, background scoring is stopped first; it resumes afterwards.

        Raises:
            RequestError: there is no such trainer, or an option is impossible.
            TrainingError: the pool cannot be trained on.
        """
        trainer = self._trainers.get(model)
        if trainer is None:
            raise RequestError(
                f"There is no trainer '{model}'; choose one of {', '.join(self._trainers)}."
            )
        trainer.check(request, self.datastore())
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end just now
            stop_background_task("scoring")  # it would judge a model that is about to be replaced

    def go_on_training(self) -> None:
        """Resume the training that was under way when the server died, if there was one."""
        with self.pending.accepting:
            options = self.pending.resume()
            if options is None or under_way():  # somebody has pressed Train meanwhile
                return
            try:
                self.check_training("uncol", options)
            except UncolError as error:
                logger.warning("The training before the restart is not resumed: %s", error)
                self.pending.over()
                return
            logger.info("Resuming the training that was under way before the restart")
            self.async_training("uncol", {"uncol": options})

    def on_init_complete(self) -> None:
        """Mend the server and start its timers."""
        # children inherit this: they read the index, only the server writes it
        os.environ["MONAI_LABEL_DATASTORE_READ_ONLY"] = "true"
        mend_server(self, self.models, max_upload_mb=self.uncol.max_upload_mb)
        if self.pool is not None:
            Caretaker(self.models, self.queue, self.uncol, self.pool, self).start()
        super().on_init_complete()

    def _check_image(self, image: object, store: Datastore) -> None:
        """Accept cases and the server's own temporary and session files, nothing else on disk."""
        if not isinstance(image, str):
            raise RequestError(f"image must be a case's name, got {str(image)[:80]!r}.")
        if image in store.list_images():
            return
        allowed = [Path(tempfile.gettempdir())]
        if self.sessions() is not None:
            allowed.append(Path(self.sessions().store_path))
        try:
            path = Path(image).resolve(strict=True)
        except (OSError, ValueError):  # nothing is there, or it is not a path
            path = None
        inside = path and any(path.is_relative_to(folder.resolve()) for folder in allowed)
        if not (inside and Path(image).is_absolute()):
            raise RequestError(
                f"There is no case '{image[:200]}' in the studies folder. Fetch it with Next "
                "Sample, or upload the scan first."
            )


def _check_saved(model: str, tag: object) -> None:
    """Let only the student's label be saved by an infer, and never as a submitted one."""
    if model != "uncol":
        raise RequestError(f"save_label is for the model uncol; {model}'s result is no label.")
    if tag not in (None, "", DefaultLabelTag.ORIGINAL):
        raise RequestError(
            f"A model's result is saved under the tag 'original', not {str(tag)[:80]!r}; 'final' "
            "is what a person has submitted."
        )
