"""Write files so that a kill or a full disk never leaves a half one."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from uncol.errors import StorageError


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    flush(partial)
    os.replace(partial, path)


def write_json(path: Path, value: object) -> None:
    """Replace a JSON file in one step; makes its folder.

    Raises:
        StorageError: it could not be written; what was there is unchanged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(value))
    except OSError as error:
        raise StorageError(f"Could not write {path}: {error}. Free some disk space.") from error


def flush(*paths: Path) -> None:
    for path in paths:
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())


def append_line(path: Path, text: str) -> None:
    """Append a line that a kill can cut short but not join to the next one; makes the folder.

    Raises:
        StorageError: it cannot be written; the other lines are unchanged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")
            stream.write(text.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise StorageError(f"Could not write {path}: {error}. Free some disk space.") from error


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


GIB = 2**30
