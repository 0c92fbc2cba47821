"""What the server's own work needs of the app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from monailabel.interfaces.datastore import Datastore

from uncol.tasks.pending import PendingTraining


class Host(Protocol):
    """The app, as mends and caretaker see it.

    Attributes:
        pending: the training that was asked for and is not over.
    """

    pending: PendingTraining

    def datastore(self) -> Datastore:
        """Return the pool."""

    def info(self) -> Mapping[str, Any]:
        """Return what the app reports to clients."""

    def check_training(self, model: str, request: Mapping[str, Any]) -> None:
        """Refuse a training that cannot succeed."""

    def async_scoring(self, method: str) -> object:
        """Start a scoring child."""

    def go_on_training(self) -> None:
        """Resume the training that was under way when the server died, if there was one."""
