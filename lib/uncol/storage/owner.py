"""Who writes a model folder: one server at a time, for one project."""

from __future__ import annotations

import datetime
import os
import socket

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from uncol.errors import StorageError
from uncol.storage.files import write_text
from uncol.storage.model_folder import ModelFolder

_HELD: dict[str, FileLock] = {}  # until this process ends


class Project(BaseModel):
    """What a model folder is for.

    Attributes:
        studies: the studies folder, or the PACS's address.
    """

    model_config = ConfigDict(frozen=True)

    studies: str


class Owner(BaseModel):
    """Who holds a model folder.

    Attributes:
        pid: its process id.
        host: its machine.
        since: when it started, UTC.
    """

    pid: int
    host: str
    since: str


def hold(folder: ModelFolder, project: Project) -> None:
    """Hold a model folder until this process ends, before anything of the project is touched.

    Raises:
        StorageError: another server holds it, it belongs to another project, or it cannot be
            written.
    """
    root = str(folder.student.resolve())
    if root in _HELD:
        return
    try:
        folder.student.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.owner_lock)
        lock.acquire(timeout=0)
    except Timeout:
        raise StorageError(_taken(folder)) from None
    except OSError as error:
        raise StorageError(
            f"The model folder {folder.root} cannot be written: {error.strerror}. Choose another "
            "one with --conf model_dir, or give this user the right to write there."
        ) from error
    _check_project(folder, project)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    owner = Owner(pid=os.getpid(), host=socket.gethostname(), since=now)
    write_text(folder.owner, owner.model_dump_json())
    _HELD[root] = lock


def dedicate(folder: ModelFolder, project: Project) -> None:
    """Note that a held folder is for this project from now on, whose studies could be opened.

    Raises:
        StorageError: it cannot be written.
    """
    write_text(folder.project, project.model_dump_json())


def _taken(folder: ModelFolder) -> str:
    try:
        owner = Owner.model_validate_json(folder.owner.read_text())
        who = f"process {owner.pid} on {owner.host}, since {owner.since}"
    except (OSError, ValidationError):
        who = "another process"
    return (
        f"The model folder {folder.root} is in use by another server ({who}). Stop that one, or "
        "choose another folder with --conf model_dir."
    )


def _check_project(folder: ModelFolder, project: Project) -> None:
    try:
        before = Project.model_validate_json(folder.project.read_text())
    except (OSError, ValidationError):  # a new folder, or one of an earlier version
        return
    if before.studies != project.studies:
        raise StorageError(
            f"The model folder {folder.root} belongs to the studies at {before.studies}, not to "
            f"{project.studies}. Choose another folder with --conf model_dir. If the studies only "
            f"moved, delete {folder.project} and start again."
        )
