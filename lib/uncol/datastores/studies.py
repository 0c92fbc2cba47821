"""Scans and their labels, as MONAI Label's `Datastore` and on a record that cannot be half-written.

Files say what exists; the record says who submitted it, when, with what names, and on which scan.
Where scans come from is the matter of `StudiesFolder` and `PacsDatastore`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uncol.data.identity import ScanIdentity
from uncol.datastores.catalog import Catalog
from uncol.datastores.history import History, Submission
from uncol.datastores.listing import FINAL, LABELS, PARTIAL, Stamp
from uncol.datastores.record import LabelRow, label_key
from uncol.datastores.submitted import LABEL_FORMATS, check_final, stored_extension
from uncol.errors import RequestError, StorageError, why
from uncol.storage.database import Change, Table
from uncol.storage.files import copy_file, discard, file_digest, flush, flush_folder, make_folder
from uncol.storage.plain import PlainName, check_notes, path_in, plain_name, shown
from uncol.types import Array

logger = logging.getLogger(__name__)

NEEDS_PACS = "to_pacs needs a case of a server whose --studies is a PACS."


class UncolDatastore(Catalog):
    """Scans with labels, in the app's values.

    Attributes:
        history: every label that was submitted.
        takes_results: whether the student's label and map can be stored where scans come from.
    """

    takes_results = False

    def __init__(
        self,
        folder: str,
        *more: Table[Any],
        labels: Mapping[str, int],
        read_only: bool = False,
    ) -> None:
        """Open a folder of scans and labels.

        Args:
            folder: the folder.
            more: further tables of the record.
            labels: the app's labels, to which submitted ones are mapped.
            read_only: whether nothing is written: a child process of the server only reads.

        Raises:
            StorageError: the folder or its record cannot be read or written.
        """
        super().__init__(folder, *more, read_only=read_only)
        self._labels = labels
        self.history = History(self._root)

    def publish_result(
        self, image_id: str, label: Array, uncertainty: Array, version: int
    ) -> dict[str, str]:
        """Store a student's label and map where scans come from.

        Raises:
            RequestError: this is not a PACS, or the case is not in it.
        """
        raise RequestError(NEEDS_PACS)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Save a label; a submitted one (tag `final`) is checked and mapped to the app's values.

        When it returns, a submitted label is on the disk with all that is noted of it.

        Raises:
            RequestError: unknown case, or an id or tag that cannot be a file name.
            LabelError: the label does not fit its scan or the app's labels.
            StorageError: it could not be written; the earlier label is unchanged.
        """
        self._refuse_frozen()
        name, tag = plain_name(image_id, "image id"), plain_name(label_tag, "label tag")
        if not self.get_image_uri(name):
            raise RequestError(
                f"There is no case {shown(image_id)} in the studies folder. "
                "Fetch it with Next Sample, or upload the scan first."
            )
        info = check_notes(label_info or {})
        extension = stored_extension(label_filename, submitted=tag == FINAL)
        target = self._label_file(name, tag, extension)
        partial = target.with_name(PARTIAL.format(os.getpid(), threading.get_ident(), extension))
        try:
            make_folder(target.parent)
            if tag == FINAL:
                scan = Path(self.get_image_uri(name))
                info = check_final(name, label_filename, scan, info, self._labels, partial)
                flush(partial)
            else:
                copy_file(Path(label_filename), partial)
            info = {**info, "ts": int(time.time()), "name": target.name}
            self._put(name, tag, partial, target, info)
        except (OSError, StorageError) as error:
            raise StorageError(
                f"Could not save the label of case '{name}': {why(error)}. The earlier label is "
                "unchanged. Free some disk space, or let this user write there, and submit again."
            ) from error
        finally:
            discard(partial)
        return name

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; a submitted one stays in the history.

        Raises:
            RequestError: an id or tag that cannot be a file name.
            StorageError: it could not be removed.
        """
        self._refuse_frozen()
        name, tag = plain_name(label_id, "image id"), plain_name(label_tag, "label tag")
        try:
            scan = self._identity(name) if tag == FINAL else None
            with self._writing, self._record.database.change() as change:
                self._remember(name, tag)
                change.drop(self._record.labels, label_key(name, tag))
                if tag == FINAL:
                    self.history.remove(name, scan)
                self._unlink(name, tag)
        except OSError as error:
            raise StorageError(
                f"The label of case '{name}' could not be removed: {error.strerror}."
            ) from error

    def _label_file(self, name: PlainName, tag: PlainName, extension: str) -> Path:
        """Return the path of a case's label, whether or not it exists."""
        return path_in(path_in(self._root / LABELS, tag), name, extension)

    def _put(
        self, name: PlainName, tag: PlainName, partial: Path, target: Path, info: dict[str, Any]
    ) -> None:
        """Put a new label in its place and into the record, both or none."""
        scan = self._identity(name)
        extension = target.name[len(name) :]
        copy = None
        try:
            with self._writing, _restoring(target), self._record.database.change() as change:
                before = self._remember(name, tag)
                if tag == FINAL:
                    noted = Submission(digest=file_digest(partial), scan=scan, info=info)
                    copy = self.history.add(name, partial, extension, noted)
                os.replace(partial, target)
                if tag == FINAL:
                    flush_folder(target.parent)
                row = LabelRow(file=str(target.relative_to(self._root)), scan=scan, info=info)
                row = row.seen(row.file, Stamp.of(target))
                change.put(self._record.labels, label_key(name, tag), row)
                self._put_beside(change, name, tag)
        except BaseException:
            if copy is not None:
                self.history.forget(copy)
            raise
        discard(*(path for path in before if path != target))  # the same label in another format

    def _put_beside(self, change: Change, name: str, tag: str) -> None:
        """Change what else is to change along with a label."""

    def _identity(self, name: str) -> ScanIdentity | None:
        """Return which scan a case is, as far as is known."""
        row = self._record.scans.get(name)
        return row.identity if row else None

    def _remember(self, name: PlainName, tag: PlainName) -> list[Path]:
        """Keep in the history what was put there by hand and never seen; return the label's files.

        They are looked for on disk: a file that the record does not know would be lost.
        """
        files = self._label_files(name, tag)
        if tag == FINAL:
            row = self._record.label(name, tag)
            for path in files:
                digest = file_digest(path)
                if not self.history.knows(name, digest):
                    info = row.info if row and self._root / row.file == path else {}
                    noted = Submission(digest=digest, info=info)
                    self.history.add(name, path, path.name[len(name) :], noted)
        return files

    def _label_files(self, name: PlainName, tag: PlainName) -> list[Path]:
        row = self._record.label(name, tag)
        files = {self._root / row.file} if row else set()
        files |= {self._label_file(name, tag, extension) for extension in LABEL_FORMATS}
        return sorted(path for path in files if path.is_file())

    def _unlink(self, name: PlainName, tag: PlainName) -> None:
        for path in self._label_files(name, tag):
            path.unlink(missing_ok=True)


@contextmanager
def _restoring(path: Path) -> Iterator[None]:
    """Put a file back as it was if the body fails."""
    backup = path.with_name(PARTIAL.format(os.getpid(), threading.get_ident(), ".before"))
    discard(backup)  # left where the folder could not be written for a while
    there = path.exists()
    if there:
        try:
            os.link(path, backup)
        except OSError:  # a file system without links
            copy_file(path, backup)
    try:
        yield
    except BaseException:
        if there:
            os.replace(backup, path)
        else:
            discard(path)
        raise
    finally:
        discard(backup)
