"""Scans that a client uploads for a while, without making cases of them."""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, ValidationError

from uncol.errors import RequestError, StorageError, why
from uncol.server.archives import unpack
from uncol.server.door import keep_upload, own_name
from uncol.storage.files import write_text
from uncol.storage.plain import is_plain, path_in, plain_name

logger = logging.getLogger(__name__)

RECORD = "session.json"
CONTENT = "content"  # folder of the uploaded files
LEAST_S = 60
SWEEP_EVERY_S = 300.0
MOST_FILES = 10_000


class Session(BaseModel):
    """One upload.

    Attributes:
        name: its id.
        image: name of the uploaded file, or of the folder with all of them, in the session.
        create_ts: when it was made, seconds since 1970.
        last_access_ts: when it was last used.
        expiry: seconds without use after which it goes.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    image: str
    create_ts: float
    last_access_ts: float
    expiry: int

    def is_over(self) -> bool:
        """Say whether it was not used for too long."""
        return self.last_access_ts + self.expiry < time.time()


class Sessions:
    """All uploads of this kind, each in a folder of its own."""

    def __init__(self, folder: Path, *, longest_s: int, limit_bytes: int) -> None:
        """Open them; what is left of an earlier server goes.

        Args:
            folder: holds them; made if missing.
            longest_s: most seconds that one is kept without use.
            limit_bytes: most bytes of an unpacked archive.
        """
        self._folder = folder
        self._longest_s = longest_s if longest_s > LEAST_S else 3600
        self._limit = limit_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self.sweep(unfinished=True)

    def add(self, uploads: Sequence[UploadFile], *, unpacked: bool, expiry: int) -> Session:
        """Keep uploaded files.

        Args:
            uploads: one scan, or the files of one.
            unpacked: whether a single file is an archive to be unpacked.
            expiry: seconds to keep it without use; 0 for the longest.

        Raises:
            RequestError: a name or an archive is not allowed; nothing is kept.
            StorageError: it could not be written; nothing is kept.
        """
        now = time.time()
        name = str(uuid.uuid4())
        home = self._home(name)
        try:
            content = home / CONTENT
            content.mkdir(parents=True, mode=0o700)
            image = self._receive(uploads, content, unpacked=unpacked)
            kept_s = min(expiry, self._longest_s) if expiry > 0 else self._longest_s
            session = Session(
                name=name, image=image, create_ts=now, last_access_ts=now, expiry=kept_s
            )
            write_text(home / RECORD, session.model_dump_json())
        except BaseException as error:  # whatever it was, nothing half-received stays
            shutil.rmtree(home, ignore_errors=True)
            if isinstance(error, OSError):
                raise StorageError(f"The session could not be kept: {why(error)}.") from error
            raise
        return session

    def get(self, name: str, *, used: bool = True) -> Session | None:
        """Return a session; None if there is none.

        Args:
            name: what a client calls it.
            used: whether this counts as use.
        """
        if not is_plain(name):
            return None
        home = self._home(name)
        try:
            session = Session.model_validate_json((home / RECORD).read_text())
        except (OSError, ValidationError, ValueError):
            return None
        if session.name != name or not is_plain(session.image) or session.is_over():
            return None
        if used:
            session = session.model_copy(update={"last_access_ts": time.time()})
            write_text(home / RECORD, session.model_dump_json())
        return session

    def image(self, session: Session) -> Path:
        """Return the file of a session's scan, or the folder with its files."""
        home = self._home(session.name)
        if session.image == CONTENT:
            return home / CONTENT
        return path_in(home / CONTENT, plain_name(session.image, "file name"))

    def remove(self, name: str) -> Session | None:
        """Forget a session and return what it was; None if there was none."""
        session = self.get(name, used=False)
        if session is not None:
            shutil.rmtree(self._home(session.name), ignore_errors=True)
        return session

    def sweep(self, *, unfinished: bool = False) -> None:
        """Remove what is over.

        Args:
            unfinished: whether what has no record goes, too; while the server runs, that is what
                arrives just now.
        """
        for home in self._folder.iterdir():
            arrives = not (home / RECORD).exists()
            if (
                home.is_dir()
                and (unfinished or not arrives)
                and not self.get(home.name, used=False)
            ):
                logger.info("Session %s goes: it is over or not whole", home.name)
                shutil.rmtree(home, ignore_errors=True)

    def keep_sweeping(self) -> None:
        """Sweep now and then, in a thread that ends with the server."""

        def run() -> None:
            while True:
                time.sleep(SWEEP_EVERY_S)
                try:
                    self.sweep()
                except OSError as error:
                    logger.warning("Sessions could not be swept: %s", error)

        threading.Thread(target=run, name="sessions", daemon=True).start()

    def _home(self, name: str) -> Path:
        return path_in(self._folder, plain_name(name, "session id"))

    def _receive(self, uploads: Sequence[UploadFile], content: Path, *, unpacked: bool) -> str:
        if not 1 <= len(uploads) <= MOST_FILES:
            raise RequestError(f"A session holds 1 to {MOST_FILES} files, got {len(uploads)}.")
        names = [plain_name(own_name(upload), "file name") for upload in uploads]
        if len(set(names)) < len(names):
            raise RequestError("Two files of the session have the same name.")
        if unpacked and len(uploads) == 1:
            archive = keep_upload(uploads[0], content.parent, "archive")
            content.rmdir()
            unpack(archive, content, limit_bytes=self._limit)
            archive.unlink()
            return CONTENT
        for upload, name in zip(uploads, names, strict=True):
            with path_in(content, name).open("xb") as stream:
                shutil.copyfileobj(upload.file, stream)
        return names[0] if len(names) == 1 else CONTENT
