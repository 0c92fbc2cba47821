"""Every label that ever counted, with who, when and of which scan: nothing is overwritten.

`.history/<case>/<since>-<digest><extension>` is a copy of the label's file, made before it counts,
and `....json` beside it says what is known of it. `<since>-removed.json` says that somebody removed
the label. So the record can be made anew from these files, and a label finds its scan again
(docs/studies.md).
"""

from __future__ import annotations

import datetime
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from uncol.data.identity import ScanIdentity
from uncol.errors import StorageError
from uncol.storage.files import discard, file_digest, replacing
from uncol.storage.plain import PlainName, is_plain, path_in, plain_name

logger = logging.getLogger(__name__)

FOLDER = ".history"  # in the studies folder
DIGITS = 12  # of a label file's SHA-256 in its name
TAKEN_AWAY = "removed"
NO_ROOM = "Free some disk space."
INDEX_LASTS_S = 5.0  # another server may have added to it since
INFO = TypeAdapter(dict[str, Any])


class Submission(BaseModel):
    """What is known of a label that counted.

    Attributes:
        digest: SHA-256 of the label's file; empty where somebody removed the label.
        scan: the scan that it was drawn on; None if nobody looked then.
        info: notes that came with it: `user`, `ts` (Unix time, s), `label_info`, ...
    """

    model_config = ConfigDict(frozen=True)

    digest: str
    scan: ScanIdentity | None = None
    info: dict[str, Any] = {}


@dataclass(frozen=True)
class Kept:
    """A label that counted once, or still does.

    Attributes:
        case: its case.
        path: its file, in the app's values.
        submission: what is known of it.
    """

    case: str
    path: Path
    submission: Submission

    @property
    def info(self) -> dict[str, Any]:
        """Notes that came with it."""
        return self.submission.info


class History:
    """The labels of a studies folder, from the first one on."""

    def __init__(self, studies: Path) -> None:
        """Open the history of a studies folder; it need not exist yet."""
        self._folder = studies / FOLDER
        self._known: dict[str, tuple[int, list[Kept]]] = {}  # by case, with the folder's time
        self._index: dict[str, list[Kept]] = {}  # by the voxels of the scan
        self._indexed_at = float("-inf")

    def add(self, case: PlainName, label: Path, extension: str, submission: Submission) -> Path:
        """Keep a label that is about to count; return the copy.

        Args:
            case: its case.
            label: its file.
            extension: how it ends.
            submission: what is known of it.

        Raises:
            StorageError: it cannot be kept.
        """
        path = self._path(case, f"{submission.digest[:DIGITS]}{extension}")
        self._note(path, submission)  # first: a note without a file says nothing
        try:
            with replacing(path, remedy=NO_ROOM) as partial:
                shutil.copyfile(label, partial)
        except StorageError:
            self.forget(path)
            raise
        return path

    def forget(self, path: Path) -> None:
        """Take back what was added for a label that never counted."""
        self._indexed_at = float("-inf")
        discard(path, _note_of(path))

    def remove(self, case: PlainName, scan: ScanIdentity | None) -> None:
        """Note that somebody removed a case's label; it is not to come back by itself.

        Raises:
            StorageError: it cannot be written.
        """
        self._note(self._path(case, TAKEN_AWAY), Submission(digest="", scan=scan))

    def knows(self, case: PlainName, digest: str) -> bool:
        """Say whether the file of a label is kept."""
        return any(one.submission.digest == digest for one in self._of(case))

    def ends_with(self, case: PlainName, digest: str) -> bool:
        """Say whether a label file is the latest that happened to a case's label."""
        events = self._of(case)
        return bool(events) and events[-1].submission.digest == digest

    def of(self, case: str) -> list[Kept]:
        """Return all labels that a case ever had, oldest first; the one that counts is the last."""
        events = self._of(plain_name(case, "image id"))
        return [one for one in events if one.submission.digest]

    def submission(self, case: PlainName, digest: str) -> Submission | None:
        """Return what is known of a case's label file; None if it was never this case's."""
        own = [one.submission for one in self._of(case) if one.submission.digest == digest]
        return own[-1] if own else None

    def elsewhere(self, digest: str) -> Kept | None:
        """Return the latest label of any case with these very bytes."""
        same = [one for one in self.all() if one.submission.digest == digest]
        return same[-1] if same else None

    def latest_of(self, scan: ScanIdentity) -> dict[str, Kept]:
        """Return the label of a scan under each case that it had, the latest one each.

        A case whose label of this scan was removed has none.
        """
        if time.monotonic() - self._indexed_at > INDEX_LASTS_S:
            self._index = {}
            for one in self.all():
                if one.submission.scan is not None:
                    self._index.setdefault(one.submission.scan.voxels, []).append(one)
            self._indexed_at = time.monotonic()
        latest: dict[str, Kept] = {}
        for one in self._index.get(scan.voxels, ()):
            if one.submission.scan is not None and one.submission.scan.same_as(scan):
                latest[one.case] = one
        return {case: one for case, one in latest.items() if one.submission.digest}

    def all(self) -> Iterator[Kept]:
        """Yield all that is kept, each case's oldest first."""
        try:
            cases = sorted(os.listdir(self._folder))
        except OSError:
            return
        for case in cases:
            if is_plain(case):
                yield from self._of(PlainName(case))

    def _of(self, case: PlainName) -> list[Kept]:
        folder = path_in(self._folder, case)
        try:
            changed = folder.stat().st_mtime_ns
        except OSError:
            return []
        held = self._known.get(case)
        if held is None or held[0] != changed:
            held = (changed, list(_read(folder, case)))
            self._known[case] = held
        return held[1]

    def _path(self, case: PlainName, name: str) -> Path:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%S.%fZ")
        return path_in(self._folder, case) / f"{now}-{name}"

    def _note(self, path: Path, submission: Submission) -> None:
        self._indexed_at = float("-inf")
        with replacing(_note_of(path), remedy=NO_ROOM) as partial:
            partial.write_text(submission.model_dump_json())


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read(folder: Path, case: str) -> Iterator[Kept]:
    """Yield what a folder of the history holds; a label counts though its note is damaged."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    for name in names:
        path = folder / name
        if name.endswith(f"-{TAKEN_AWAY}.json"):
            yield Kept(case, path, _submission(path, ""))
        elif not name.endswith((".json", ".partial")):
            yield Kept(case, path, _submission(_note_of(path), name))


def _submission(note: Path, file: str) -> Submission:
    """Read a note; one of 0.3.0 or earlier holds the info alone."""
    info: dict[str, Any] = {}
    try:
        text = note.read_bytes()
        try:
            submission = Submission.model_validate_json(text)
            if not file or f"-{submission.digest[:DIGITS]}." in file:
                return submission
        except ValidationError:
            info = INFO.validate_json(text)
    except (OSError, ValidationError) as error:
        logger.error("The note %s in the history cannot be read: %s", note, error)
    return Submission(digest=file_digest(note.with_name(file)) if file else "", info=info)
