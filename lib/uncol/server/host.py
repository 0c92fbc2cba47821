"""What the server's own work needs of the app."""

from __future__ import annotations

from typing import Protocol

from uncol.datastores.studies import UncolDatastore


class Host(Protocol):
    """What the caretaker needs of the app."""

    def datastore(self) -> UncolDatastore:
        """Return the pool."""

    def async_scoring(self, method: str) -> object:
        """Start a scoring child."""

    def go_on_training(self) -> None:
        """Start the training again that was under way when the server died, if there was one."""
