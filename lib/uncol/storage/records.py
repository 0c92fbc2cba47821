"""Records of one kind by key, in an SQLite file: the server's own state, apart from any note."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from uncol.errors import StorageError

logger = logging.getLogger(__name__)

Kept = TypeVar("Kept", bound=BaseModel)
BUSY_S = 30.0


class Records(Generic[Kept]):
    """Records of one kind; each change is on the disk when its call returns."""

    def __init__(self, path: Path, kind: type[Kept], *, read_only: bool = False) -> None:
        """Open them; all are read once.

        Args:
            path: the file; made if missing.
            kind: what the records are.
            read_only: whether another process writes them.

        Raises:
            StorageError: the file cannot be opened.
        """
        self._path = path
        self._kind = kind
        self._guard = threading.RLock()
        self._known: dict[str, Kept] = {}
        try:
            if read_only and not path.exists():
                return
            self._connection = sqlite3.connect(
                f"file:{path}?mode=ro" if read_only else path,
                uri=read_only,
                timeout=BUSY_S,
                check_same_thread=False,
            )
            if not read_only:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=FULL")
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, value TEXT NOT NULL)"
                )
                self._connection.commit()
            self._read()
        except sqlite3.Error as error:
            raise StorageError(f"The records in {path} cannot be opened: {error}.") from error

    def get(self, key: str) -> Kept | None:
        """Return a record; None if there is none."""
        with self._guard:
            return self._known.get(key)

    def all(self) -> dict[str, Kept]:
        """Return all records by key."""
        with self._guard:
            return dict(self._known)

    def put(self, changed: dict[str, Kept]) -> None:
        """Keep records, all of them or none.

        Raises:
            StorageError: they could not be written; what was there is unchanged.
        """
        if not changed:
            return
        rows = [(key, record.model_dump_json()) for key, record in changed.items()]
        with self._guard:
            try:
                with self._connection:
                    self._connection.executemany(
                        "INSERT INTO records VALUES (?, ?) "
                        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                        rows,
                    )
            except sqlite3.Error as error:
                raise StorageError(
                    f"Could not write {self._path}: {error}. Free some disk space."
                ) from error
            self._known.update(changed)

    def _read(self) -> None:
        for key, text in self._connection.execute("SELECT key, value FROM records"):
            try:
                self._known[key] = self._kind.model_validate_json(text)
            except ValidationError as error:
                logger.error("A record in %s cannot be read and is left out: %s", self._path, error)
