"""The state of a training run on disk, so that a killed run resumes."""

from __future__ import annotations

import contextlib
import pickle
import time
from pathlib import Path

import torch

from uncol.storage.files import replacing
from uncol.training.loop import Trainer

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
        """Let a fresh trainer resume where the run was; False if the run has no checkpoint."""
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (FileNotFoundError, EOFError, RuntimeError, pickle.UnpicklingError):
            return False
        if state.get("key") != self.key:
            return False
        trainer.load_state_dict(state["trainer"])
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
