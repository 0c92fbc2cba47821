"""Write files so that a kill or a full disk never leaves a half-written one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from uncol.errors import StorageError, why

GIB = 2**30
READS = 5  # of a file that is replaced meanwhile
Content = TypeVar("Content")
REMEDY = "Free some disk space, or choose another model_dir."


@contextmanager
def replacing(
    path: Path, *, also: tuple[type[Exception], ...] = (), remedy: str = REMEDY
) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end that file replaces `path` in one step.

    Creates the folder. The content is on the disk before the old file is replaced, and the new name
    is when this returns.

    Args:
        path: the file.
        also: what the writer raises, besides `OSError`, if the disk is full.
        remedy: what a person should do then.

    Raises:
        StorageError: it could not be written; what was there is unchanged.
    """
    failures: tuple[type[Exception], ...] = (OSError, *also)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        make_folder(path.parent)
        yield partial
        flush(partial)
        os.replace(partial, path)
        flush_folder(path.parent)
    except failures as error:
        discard(partial)
        raise StorageError(f"Could not write {path}: {why(error)}. {remedy}") from error


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step; creates its folder.

    Raises:
        StorageError: it could not be written; what was there is unchanged.
    """
    with replacing(path) as partial:
        partial.write_text(text)


def write_json(path: Path, value: object) -> None:
    """Replace a JSON file in one step; creates its folder.

    Raises:
        StorageError: it could not be written; what was there is unchanged.
    """
    write_text(path, json.dumps(value))


def append_line(path: Path, text: str) -> None:
    """Append a line; a kill can cut it short, but never joins it to the next. Creates the folder.

    Raises:
        StorageError: it could not be written; the other lines are unchanged.
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
        raise StorageError(
            f"Could not write {path}: {why(error)}. Free some disk space."
        ) from error


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content; the copy is on the disk when this returns.

    Raises:
        OSError: it could not be written.
    """
    shutil.copyfile(source, target)
    flush(target)


def discard(*paths: Path) -> None:
    """Remove files of no use; that one cannot be removed must not hide why it is of none."""
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def flush(*paths: Path) -> None:
    """Wait until the content of files is on the disk."""
    for path in paths:
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that it is there after a power cut."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush_folder(folder.parent)


def unchanged(path: Path, read: Callable[[], Content]) -> tuple[Content, str]:
    """Read a file that others may replace; return what was read and the digest of that very file.

    Raises:
        StorageError: the file was replaced each time, or removed.
    """
    for _ in range(READS):
        try:
            before = file_digest(path)
            content = read()
            if file_digest(path) == before:
                return content, before
        except FileNotFoundError as error:
            raise StorageError(f"{path} was removed while it was read; try again.") from error
    raise StorageError(f"{path} is replaced all the time; try again when it is not.")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
