"""The MONAI Label app: settings in, tasks wired."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.config import settings as server_settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from uncol import __version__
from uncol.datastores.connect import connect, is_address, mirror_folder
from uncol.datastores.folder import StudiesFolder
from uncol.datastores.pacs import PacsDatastore
from uncol.datastores.studies import UncolDatastore
from uncol.selection.queue import Queue
from uncol.server.caretaker import Caretaker
from uncol.server.desk import Desk, Source, Tasks
from uncol.server.install import install
from uncol.server.start import refuse_new_folder, say_in_one_line
from uncol.settings import parse_settings
from uncol.storage.owner import Project, dedicate, hold
from uncol.storage.scratch import own_temporary_folder
from uncol.tasks.first_label import FirstLabel
from uncol.tasks.infer import student_tasks
from uncol.tasks.pending import PendingTraining
from uncol.tasks.prompt import PromptTask
from uncol.tasks.requests import ScoringRequest, TrainRequest
from uncol.tasks.scoring import DiceScoring, UncolScoring
from uncol.tasks.served import ServedStudent
from uncol.tasks.strategy import strategies
from uncol.tasks.train import UncolTrain
from uncol.versions.store import ModelStore

logger = logging.getLogger(__name__)


class UncolApp(MONAILabelApp):  # type: ignore[misc]
    """UnCoL: annotate a few, train on all, look where the model is unsure."""

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        """Start the app; the signature is MONAI Label's.

        Raises:
            SettingsError: one or more `--conf` pairs are wrong.
            StorageError: the studies folder cannot be used, or another server or project has the
                model folder.
        """
        say_in_one_line()
        self.uncol, notes = parse_settings(conf)
        for note in notes:
            logger.warning(note)
        self.models = ModelStore(self.uncol.model_dir)
        self.served = ServedStudent(self.models, self.uncol.labels)
        self.queue = Queue(self.models, self.uncol.generalist)
        super().__init__(
            app_dir,
            studies,
            dict(conf),
            name="UnCoL",
            description="Semi-supervised segmentation from a few labels, with uncertainty",
            version=__version__,
            labels=list(self.uncol.labels),
        )
        tasks = Tasks(self._infers, self._trainers, self._strategies, self._scoring_methods)
        pending = PendingTraining(self.models.folder)
        self.desk = Desk(self, tasks, self.uncol.labels, pending)
        self._auto_update_scoring = False  # MONAI Label would score at each start and click

    def init_datastore(self) -> Datastore:
        """Return the studies folder, the PACS at a URL, or MONAI Label's own XNAT or DSA store."""
        if is_address(self.studies):
            if server_settings.MONAI_LABEL_DATASTORE.lower() in ("xnat", "dsa"):
                return super().init_datastore()
            url = self.studies.strip().rstrip("/")
            self._hold_models()
            return PacsDatastore(
                mirror_folder(url),
                connect(url, self.uncol.modality),
                labels=self.uncol.labels,
                read_only=server_settings.MONAI_LABEL_DATASTORE_READ_ONLY,
            )
        refuse_new_folder(Path(self.studies))
        self._hold_models()
        return StudiesFolder(
            self.studies,
            labels=self.uncol.labels,
            patient=self.uncol.patient,
            watch=server_settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=server_settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _hold_models(self) -> None:
        """Hold the model folder before the studies are opened; children leave it to the server."""
        if not server_settings.MONAI_LABEL_DATASTORE_READ_ONLY:
            hold(self.models.folder, Project(studies=self.studies))

    @property
    def pool(self) -> UncolDatastore | None:
        """The pool, if it is one of ours: MONAI Label's XNAT and DSA stores have less to offer."""
        store = self.datastore()
        return store if isinstance(store, UncolDatastore) else None

    def init_infers(self) -> dict[str, InferTask]:
        """Return infer tasks, the student first."""
        pool = self.pool
        to_pacs = pool is not None and pool.takes_results
        first = FirstLabel(self.datastore, self.uncol.labels)
        tasks = student_tasks(self.served, self.uncol.labels, first=first, to_pacs=to_pacs)
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

    # --- MONAI Label's own doors; the server's routes ask the desk ---

    def infer(
        self, request: Mapping[str, Any], datastore: Datastore | None = None
    ) -> dict[str, Any]:
        """Answer an infer as MONAI Label's own apps do.

        Args:
            request: `model`, `image` (a case's name), and options.
            datastore: ours, whatever is given.

        Raises: as `Desk.answer`.
        """
        body = {word: value for word, value in request.items() if word not in ("model", "image")}
        folder = Path(tempfile.mkdtemp(prefix="infer-"))
        source = Source(case=str(request.get("image")))
        answer = self.desk.answer(
            str(request.get("model")), source, self.desk.options(body), folder
        )
        file = str(answer.file)
        tag = DefaultLabelTag.ORIGINAL
        return {"label": file, "tag": tag, "file": file, "params": answer.params}

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a Next Sample as MONAI Label's own apps do."""
        body = {word: value for word, value in request.items() if word != "strategy"}
        return self.desk.next_case(str(request.get("strategy") or "random"), body)

    def work(self, kind: str, request: Mapping[str, Any]) -> object:
        """Do a training or a scoring: what a child is for."""
        if kind == "idle":
            learner: UncolTrain = self._trainers["uncol"]
            return learner.go_on(self.datastore())
        rest = {word: value for word, value in request.items() if word not in ("model", "method")}
        if kind == "train":
            trainer: UncolTrain = self._trainers[request["model"]]
            return trainer(TrainRequest.of(rest), self.datastore())
        return self._scoring_methods[request["method"]](ScoringRequest.of(rest), self.datastore())

    def on_init_complete(self) -> None:
        """Take the model folder, put the routes in place, and start tending.

        Raises:
            StorageError: another server or project has the model folder.
            SettingsError: another program has the port.
        """
        own_temporary_folder()
        # children inherit this: they read the index, only the server writes it
        os.environ["MONAI_LABEL_DATASTORE_READ_ONLY"] = "true"
        project = Project(studies=self.studies)
        hold(self.models.folder, project)  # a read-only server, too
        dedicate(self.models.folder, project)
        install(self.desk, self.models, self.uncol)
        if self.pool is not None:
            Caretaker(self.models, self.queue, self.uncol, self.pool, self.desk).start()
        logger.info("App Init - completed")
