"""The student that is being served: loaded once a version, picked up when a new one appears."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from uncol.data.scan import Volume
from uncol.errors import RequestError
from uncol.inference.outputs import Segmentation, segment
from uncol.networks.student import Student
from uncol.training.versions import Manifest, ModelStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A loaded version. A request keeps its own reference, so a switch never disturbs it.

    Attributes:
        student: on `device`, in evaluation mode.
        manifest: how it was made.
        device: where it computes.
    """

    student: Student
    manifest: Manifest
    device: torch.device

    def segment(self, scan: Volume) -> Segmentation:
        """Segment a scan as this version was trained to."""
        return segment(
            self.student,
            scan,
            space=self.manifest.space,
            modality=self.manifest.modality,
            window=self.manifest.window,
            labels=self.manifest.labels,
            device=self.device,
        )


class ServedStudent:
    """Gives the current version to whoever asks."""

    def __init__(self, store: ModelStore, labels: Mapping[str, int]) -> None:
        """Serve the versions of a store whose labels are the app's."""
        self.store = store
        self.labels = dict(labels)
        self._guard = threading.Lock()
        self._loaded: dict[str, Served] = {}

    def get(self, device: str) -> Served:
        """Return the current version on a device.

        Raises:
            RequestError: there is no version yet, or it was trained for other labels.
            WeightsError: its files are damaged.
        """
        version = self.store.current()
        if version is None:
            raise RequestError(
                "There is no trained model yet. Label a few cases (uncol_prompt gives a first mask "
                "from a box or click), submit them, then press Train."
            )
        with self._guard:
            served = self._loaded.get(device)
            if served is None or served.manifest.version != version:
                served = self._load(version, device)
                self._loaded[device] = served
        return served

    def _load(self, version: int, device: str) -> Served:
        student, manifest = self.store.load(version)
        if manifest.labels != self.labels:
            raise RequestError(
                f"The model in {self.store.folder} was trained for {list(manifest.labels)}, the "
                f"server was started for {list(self.labels)}. Start it with those labels, or with "
                "another --conf model_dir."
            )
        logger.info("Serving version %s on %s", version, device)
        place = torch.device(device)
        return Served(student.to(place), manifest, place)
