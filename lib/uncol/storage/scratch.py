"""Temporary files that nobody else can read, in one folder that goes with its process."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

MODE = 0o700
PREFIX = "process-"
LOCK = "lock"
MAY_BE_NEW_S = 60.0  # a folder without a lock may be one that is being made

_HELD: list[FileLock] = []


def own_temporary_folder() -> Path:
    """Let all temporary files of this process and its children lie in a folder of its own.

    It is removed at the end. What processes left that were killed is removed at the next start.

    Raises:
        OSError: the system's temporary folder cannot be written.
    """
    base = _base(Path(tempfile.gettempdir()))
    sweep(base)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    # held as long as the process lives, in whatever container
    lock = FileLock(folder / LOCK, mode=0o600)
    lock.acquire()
    _HELD.append(lock)
    tempfile.tempdir = str(folder)
    os.environ["TMPDIR"] = str(folder)
    atexit.register(_remove, folder, os.getpid())
    return folder


def sweep(base: Path) -> None:
    """Remove the folders of processes that are no more."""
    for folder in base.glob(f"{PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime > MAY_BE_NEW_S or (folder / LOCK).exists():
                with FileLock(folder / LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):  # somebody lives in it, or has just removed it
            continue


def _base(system: Path) -> Path:
    """Return this user's folder; a name that somebody else has taken is left alone."""
    base = system / f"uncol-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=MODE)
    status = base.lstat()
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not mine:
        return Path(tempfile.mkdtemp(prefix=f"uncol-{os.getuid()}-", dir=system))
    base.chmod(MODE)
    return base


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked process runs its parent's exit handlers, too
        shutil.rmtree(folder, ignore_errors=True)
