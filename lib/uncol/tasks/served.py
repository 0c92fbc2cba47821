"""The student that is being served: loaded once per version, replaced when a new one appears."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

import torch

from uncol.errors import RequestError
from uncol.versions.loaded import LoadedStudent, load_version
from uncol.versions.store import ModelStore

logger = logging.getLogger(__name__)


class ServedStudent:
    """Gives the current version, on any device."""

    def __init__(self, store: ModelStore, labels: Mapping[str, int]) -> None:
        """Make it; nothing is loaded yet.

        Args:
            store: where versions are published.
            labels: the app's labels; a version trained for others is refused.
        """
        self.store = store
        self.labels = labels
        self._guard = threading.Lock()
        self._loaded: dict[str, tuple[tuple[int, int | None], LoadedStudent]] = {}

    def get(self, device: str) -> LoadedStudent:
        """Return the current version.

        Raises:
            RequestError: there is no version yet, or it was trained for other labels.
            WeightsError: its files are damaged.
        """
        version = self.store.current()
        if version is None:
            raise RequestError(
                "There is no trained model yet. Label a few cases (uncol_prompt gives a first mask "
                "from a box or click, unless teacher is none), submit them, then press Train."
            )
        with self._guard:
            state = (version, self._calibrated_at(version))
            held = self._loaded.get(device)
            if held is None or held[0] != state:
                held = (state, self._load(version, device))
                self._loaded[device] = held
        return held[1]

    def _calibrated_at(self, version: int) -> int | None:
        """Return when a version was calibrated, which happens after it is first served."""
        path = self.store.folder.notes(version).calibration
        return path.stat().st_mtime_ns if path.exists() else None

    def _load(self, version: int, device: str) -> LoadedStudent:
        served = load_version(self.store, version, torch.device(device))
        if served.manifest.labels != self.labels:
            raise RequestError(
                f"The model in {self.store.folder.student} was trained for "
                f"{list(served.manifest.labels)}, the server was started for {list(self.labels)}. "
                "Start it with those labels, or with another --conf model_dir."
            )
        logger.info("Serving version %s on %s", version, device)
        return served
