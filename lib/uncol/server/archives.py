"""Unpack what a client sends: every member is checked before the first byte is written."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from uncol.errors import RequestError, StorageError, why
from uncol.storage.plain import is_plain, shown

MOST_MEMBERS = 10_000
NOT_ARCHIVED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    ValueError,
    RuntimeError,
)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    plain: bool  # a file or a folder; no link, no device


def unpack(archive: Path, folder: Path, *, limit_bytes: int) -> None:
    """Unpack a ZIP or TAR archive below a fresh folder.

    Args:
        archive: the file.
        folder: made here; it must not exist.
        limit_bytes: most bytes of all members together.

    Raises:
        RequestError: it is no archive, or a member's name, kind or size is not allowed; nothing is
            written then.
        StorageError: it could not be written.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _check(map(_zipped, opened.infolist()), limit_bytes)
                folder.mkdir(mode=0o700)
                # it reads no more of a member than its stated size
                opened.extractall(folder)  # noqa: S202 - all members were checked
            return
        with tarfile.open(archive) as tar:
            _check((_tarred(one) for one in tar), limit_bytes)
            folder.mkdir(mode=0o700)
            tar.extractall(folder, filter="data")
    except NOT_ARCHIVED as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise RequestError(
            f"The archive cannot be unpacked: {why(error)}. Send a ZIP or TAR."
        ) from error
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StorageError(f"The archive could not be unpacked: {why(error)}.") from error


def _check(members: Iterable[_Member], limit_bytes: int) -> None:
    size, number = 0, 0
    for number, member in enumerate(members, start=1):
        size += member.size
        parts = PurePosixPath(member.name).parts
        if not member.plain or not parts or not all(is_plain(part) for part in parts):
            raise RequestError(
                f"The archive's member {shown(member.name)} is refused: only files and folders "
                "with plain names inside the archive are unpacked."
            )
        if number > MOST_MEMBERS or size > limit_bytes:
            raise RequestError(
                f"The archive unpacks to more than {MOST_MEMBERS} files or "
                f"{limit_bytes // 2**20} MiB, this server's limits."
            )
    if number == 0:
        raise RequestError("The archive cannot be unpacked: there is nothing in it.")


def _zipped(info: zipfile.ZipInfo) -> _Member:
    kind = info.external_attr >> 28  # the Unix file type: 8 file, 4 folder, 0 not stated
    name = info.orig_filename.rstrip("/")
    return _Member(name, info.file_size, kind in (0, 4, 8) and info.filename.rstrip("/") == name)


def _tarred(info: tarfile.TarInfo) -> _Member:
    name = info.name.removeprefix("./").rstrip("/") or "."
    if name == "." and info.isdir():
        name = "folder"  # the archive's own root
    return _Member(name, info.size, info.isreg() or info.isdir())
