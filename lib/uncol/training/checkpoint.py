"""The state of a training run on disk, so that a killed run resumes."""

from __future__ import annotations

import contextlib
import logging
import time
import zipfile
from pathlib import Path

import torch

from uncol.storage.files import replacing
from uncol.training.loop import Trainer

logger = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 20.0
RESUME = "Free some disk space and press Train again: the run resumes from its last checkpoint."


class Checkpoint:
    """One file, replaced in one step; it belongs to one run, identified by its key."""

    def __init__(self, path: Path, key: str, *, every_s: float | None = None) -> None:
        """Open a checkpoint; the file need not exist.

        Args:
            path: the file.
            key: digest of everything that decides the run's result.
            every_s: seconds between two saves; 20 if not given.
        """
        self.path = path
        self.key = key
        self.every_s = CHECKPOINT_EVERY_S if every_s is None else every_s
        self._saved_at = time.monotonic()

    def restore(self, trainer: Trainer) -> bool:
        """Let a fresh trainer resume where the run was; False if the run has no checkpoint.

        A damaged checkpoint, which a full disk or a broken one leaves, counts as none.
        """
        if not self.path.exists():
            return False
        try:
            with zipfile.ZipFile(self.path) as archive:
                damaged = archive.testzip()
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            key, saved = state["key"], state["trainer"]
        except Exception as error:  # there is no end to what damaged bytes raise
            damaged, key, saved = str(error) or type(error).__name__, None, None
        if damaged:
            logger.warning("The checkpoint is damaged, the run starts afresh: %s", damaged)
        if damaged or key != self.key:
            return False
        trainer.load_state_dict(saved)
        return True

    def keep(self, trainer: Trainer) -> None:
        """Save if `every_s` seconds have passed since the last time.

        Raises:
            StorageError: it could not be written; the one before is unchanged.
        """
        if time.monotonic() - self._saved_at >= self.every_s:
            self.save(trainer)
            self._saved_at = time.monotonic()

    def save(self, trainer: Trainer) -> None:
        """Save now.

        Raises:
            StorageError: it could not be written; the one before is unchanged.
        """
        # torch reports a full disk as RuntimeError
        with replacing(self.path, also=(RuntimeError,), remedy=RESUME) as partial:
            torch.save({"key": self.key, "trainer": trainer.state_dict()}, partial)

    def remove(self) -> None:
        """Forget the run: it is over."""
        with contextlib.suppress(OSError):
            self.path.unlink()
            for pattern in (f"{self.path.name}.*", f".{self.path.name}.*"):  # 0.2.0 hid them
                for left_over in self.path.parent.glob(pattern):
                    left_over.unlink()
