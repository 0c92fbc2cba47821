"""The training that was asked for and is not over: what a restarted server goes on with."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.utils.async_tasks.utils import tasks

from uncol.training.versions import write_json

UNDER_WAY = ("SUBMITTED", "RUNNING")


class PendingTraining:
    """`runs/request.json`: there while a training waits or runs, also after a power cut."""

    def __init__(self, folder: Path) -> None:
        """Open it in a model's folder."""
        self._path = folder / "runs" / "request.json"
        self.accepting = threading.Lock()  # of two presses at once the second must see the first

    def note(self, options: Mapping[str, Any]) -> None:
        """Remember that a training with these options was asked for.

        Raises:
            StorageError: it cannot be written.
        """
        write_json(self._path, dict(options))

    def over(self) -> None:
        """Forget it: it ended, failed, or was stopped."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def left(self) -> dict[str, Any] | None:
        """Return the options of a training that is not over; None if there is none."""
        try:
            found = json.loads(self._path.read_text())
        except (OSError, json.JSONDecodeError):
            return None
        return found if isinstance(found, dict) else None


def under_way() -> bool:
    """Say whether a training waits or runs."""
    return any(task["status"] in UNDER_WAY for task in tasks("train"))


def refuse_second() -> None:
    """Refuse a training while one waits or runs.

    Raises:
        HTTPException: with status 429, as MONAI Label's own refusal.
    """
    if under_way():
        raise HTTPException(
            429, "A training is already under way. Wait for it, or stop it and train again."
        )
