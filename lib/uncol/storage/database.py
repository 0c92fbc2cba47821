"""Typed rows by key in one SQLite file; what was changed together is on the disk together."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from uncol.errors import StorageError, why

logger = logging.getLogger(__name__)

Row = TypeVar("Row", bound=BaseModel)
BUSY_S = 30.0
SCHEMA_NUMBER = 1  # a step up needs a migration in `_migrate`
# what is wrong with the disk or permissions, or that others use the file; its content may be whole
OUTSIDE = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM),
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM),
}
SIDE_FILES = ("", "-wal", "-shm")  # of one database


class Table(Generic[Row]):
    """Rows of one kind by key, as last read; `Database.change` changes them."""

    def __init__(self, name: str, kind: type[Row]) -> None:
        """Declare a table.

        Args:
            name: its name in the file; a plain word.
            kind: what its rows are.
        """
        self.name = name
        self.kind = kind
        self.rows: dict[str, Row] = {}

    def get(self, key: str) -> Row | None:
        """Return a row; None if there is none."""
        return self.rows.get(key)

    def all(self) -> dict[str, Row]:
        """Return all rows by key, as they are now."""
        return dict(self.rows)


class Change:
    """What one transaction changes."""

    def __init__(self, tables: Sequence[Table[Any]]) -> None:
        """Make an empty one for these tables."""
        self._new: dict[str, dict[str, Any]] = {table.name: {} for table in tables}

    def put(self, table: Table[Row], key: str, row: Row) -> None:
        """Add or replace a row."""
        self._new[table.name][key] = row

    def drop(self, table: Table[Any], key: str) -> None:
        """Remove a row, if there is one."""
        self._new[table.name][key] = None

    def get(self, table: Table[Row], key: str) -> Row | None:
        """Return a row as it will be."""
        new: Row | None = self._new[table.name].get(key, table.get(key))
        return new

    def of(self, table: Table[Any]) -> dict[str, Any]:
        """Return the changed rows of a table; None for one that goes."""
        return self._new[table.name]


class Database:
    """Tables in one SQLite file. Several threads and processes may have it open."""

    def __init__(self, path: Path, tables: Sequence[Table[Any]], *, read_only: bool = False):
        """Open it and read all rows.

        A damaged file is set aside, and an empty one takes its place.

        Args:
            path: the file; made if missing.
            tables: what it holds.
            read_only: whether changes stay in this process.

        Attributes:
            fresh: whether it was empty, because it is new or the one before was damaged.
            set_aside: the damaged file, if there was one.

        Raises:
            StorageError: it cannot be opened, or a newer version wrote it.
        """
        self._path = path
        self._tables = tuple(tables)
        self._read_only = read_only
        self._guard = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self.set_aside: Path | None = None
        try:
            self.fresh = self._open()
        except sqlite3.DatabaseError as error:
            if read_only or _primary(error) in OUTSIDE:
                raise StorageError(f"{path} cannot be opened: {why(error)}.") from error
            self._set_aside(error)
            self.fresh = self._open()

    def refresh(self) -> None:
        """Read again what another process has changed."""
        if self._connection is None:
            return
        with self._guard:
            try:
                if self._data_version() != self._seen:
                    self._connection.execute("BEGIN")  # all tables as of one moment
                    self._read()
                    self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._undo()
                raise StorageError(f"{self._path} cannot be read: {why(error)}.") from error

    @contextmanager
    def change(self) -> Iterator[Change]:
        """Yield an empty change; at the end all of it is on the disk, or none.

        Nobody else changes anything meanwhile, and the rows are as the last change left them.

        Raises:
            StorageError: it could not be written; all rows are as before. Whatever the body raises
                goes on, and all rows are as before, too.
        """
        with self._guard:
            change = Change(self._tables)
            if self._read_only or self._connection is None:
                yield change
                self._take(change)
                return
            self._check_there()
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                if self._data_version() != self._seen:
                    self._read()
            except sqlite3.Error as error:
                self._undo()
                raise StorageError(f"{self._path} cannot be written: {why(error)}.") from error
            try:
                yield change
                self._write(change)
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._undo()
                raise StorageError(
                    f"Could not write {self._path}: {why(error)}. Free some disk space."
                ) from error
            except BaseException:
                self._undo()
                raise
            self._take(change)

    def close(self) -> None:
        """Let go of the file."""
        with self._guard:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> bool:
        """Open the file and read it; return whether it was empty."""
        if self._read_only and not self._path.exists():
            return True
        new = not self._path.exists()
        self._connection = self._connected()
        if self._connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("its content is damaged")
        self._migrate(self._connection)
        self._inode = os.stat(self._path).st_ino
        self._read()
        return new

    def _connected(self) -> sqlite3.Connection:
        options: dict[str, Any] = {"timeout": BUSY_S, "check_same_thread": False}
        options["isolation_level"] = None  # transactions begin and end where the code says so
        if not self._read_only:
            connection: sqlite3.Connection = sqlite3.connect(self._path, **options)
            connection.text_factory = _text
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            return connection
        address = f"{self._path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(address, uri=True, **options)
        connection.text_factory = _text
        try:
            connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError:  # on a disk that takes no side files
            connection.close()
            connection = sqlite3.connect(f"{address}&immutable=1", uri=True, **options)
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_NUMBER:
            connection.close()
            raise StorageError(
                f"{self._path} was written by a newer version of uncol. Start that one, or restore "
                "the file from a backup."
            )
        if self._read_only:
            return
        connection.execute("BEGIN IMMEDIATE")
        for table in self._tables:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {table.name} (key TEXT PRIMARY KEY, row TEXT NOT NULL)"
            )
        connection.execute(f"PRAGMA user_version={SCHEMA_NUMBER}")
        connection.execute("COMMIT")

    def _set_aside(self, error: Exception) -> None:
        self.close()
        stamp = time.strftime("%Y%m%d-%H%M%S")
        self.set_aside = self._path.with_name(f"{self._path.name}.damaged-{stamp}")
        for side in SIDE_FILES:
            with suppress(FileNotFoundError):
                os.replace(f"{self._path}{side}", f"{self.set_aside}{side}")
        logger.error("%s is damaged (%s) and was set aside.", self._path, error)

    @property
    def is_there(self) -> bool:
        """Whether the file is still where it was opened."""
        try:
            return self._connection is None or os.stat(self._path).st_ino == self._inode
        except OSError:
            return False

    def _check_there(self) -> None:
        if not self.is_there:
            raise StorageError(
                f"{self._path} was removed or replaced while this server runs, so nothing can be "
                "kept. Is the folder still mounted? Put it back, or start the server again."
            )

    def _data_version(self) -> int:
        assert self._connection is not None
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def _read(self) -> None:
        assert self._connection is not None
        known = {one for (one,) in self._connection.execute("SELECT name FROM sqlite_master")}
        for table in self._tables:
            rows: dict[str, Any] = {}
            select = f"SELECT key, row FROM {table.name}"  # noqa: S608 - our own names
            for key, text in self._connection.execute(select) if table.name in known else ():
                try:
                    rows[key] = table.kind.model_validate_json(text)
                except ValidationError as error:
                    logger.error("%s: a row of %s is left out: %s", self._path, table.name, error)
            table.rows = rows
        self._seen = self._data_version()

    def _write(self, change: Change) -> None:
        assert self._connection is not None
        for table in self._tables:
            new = change.of(table)
            gone = [(key,) for key, row in new.items() if row is None]
            there = [(key, row.model_dump_json()) for key, row in new.items() if row is not None]
            name = table.name
            self._connection.executemany(f"DELETE FROM {name} WHERE key = ?", gone)  # noqa: S608
            self._connection.executemany(
                f"INSERT INTO {name} VALUES (?, ?) "  # noqa: S608
                "ON CONFLICT (key) DO UPDATE SET row = excluded.row",
                there,
            )

    def _take(self, change: Change) -> None:
        for table in self._tables:
            new = change.of(table)
            if new:
                rows = {**table.rows, **{k: row for k, row in new.items() if row is not None}}
                for key in [key for key, row in new.items() if row is None]:
                    rows.pop(key, None)
                table.rows = rows

    def _undo(self) -> None:
        """Leave the transaction, if there is one."""
        assert self._connection is not None
        with suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")


def _primary(error: sqlite3.Error) -> int:
    """Return SQLite's result code without its details."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")  # what is damaged then is no valid row
