"""The training that was asked for and is not over, which a restarted server resumes."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

from uncol.errors import BusyError
from uncol.storage.files import write_json
from uncol.storage.model_folder import ModelFolder, checkpoint_in
from uncol.tasks.jobs import JOBS

logger = logging.getLogger(__name__)

MOST_TRIES = 5  # restarts without progress


class PendingTraining:
    """`runs/request.json`: exists while a training waits or runs, even after a power cut."""

    def __init__(self, folder: ModelFolder) -> None:
        """Open it in a model folder."""
        self._path = folder.training_request
        self._checkpoint = checkpoint_in(folder.runs)
        self.accepting = threading.Lock()  # of two requests at once, the second must see the first

    def note(self, options: Mapping[str, Any]) -> None:
        """Remember that a training with these options was asked for.

        Raises:
            StorageError: it cannot be written.
        """
        self._write(options, tries=0)

    def over(self) -> None:
        """Forget it: it ended, failed, or was stopped."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def resume(self) -> dict[str, Any] | None:
        """Return the options of a training that is not over; None if there is none.

        A training that kills its server each time, without a new checkpoint, is given up.

        Raises:
            StorageError: the new try cannot be recorded.
        """
        try:
            request = json.loads(self._path.read_text())
            options, tries = dict(request["options"]), int(request["tries"])
        except (OSError, KeyError, TypeError, ValueError):
            return None
        if self._got_on():
            tries = 0
        if tries >= MOST_TRIES:
            logger.error(
                "The training under way was started %s times without a new checkpoint: it is "
                "given up. Press Train to try it again.",
                tries + 1,
            )
            self.over()
            return None
        self._write(options, tries=tries + 1)
        return options

    def _got_on(self) -> bool:
        """Say whether a checkpoint was written since the last try."""
        try:
            return self._checkpoint.stat().st_mtime > self._path.stat().st_mtime
        except OSError:
            return False

    def _write(self, options: Mapping[str, Any], *, tries: int) -> None:
        write_json(self._path, {"options": dict(options), "tries": tries})


def refuse_second() -> None:
    """Refuse a training while one waits or runs.

    Raises:
        BusyError: one does.
    """
    if JOBS.under_way("train"):
        raise BusyError("A training is already under way. Wait for it, or stop it and train again.")
