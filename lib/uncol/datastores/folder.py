"""A studies folder's files and index, kept so that no request and no file can break them.

It mends defects of MONAI Label 0.8.5's `LocalDatastore`, each tested in
tests/integration/test_mends.py:

- ids and tags are joined into paths unchecked (`tag=../../evil` writes outside the folder);
- the index is rewritten in place, and a value that can be written but not read ends every start;
- a child process that loaded the index rewrites it from its stale copy;
- readers see a half-filled index while the folder's watcher rebuilds it;
- `_to_id` removes the extension wherever it occurs in a name;
- removing a scan that is a link removes what the link points to.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from monailabel.datastore.local import DataModel, LocalDatastore
from pydantic_core import to_json

from uncol.data.scan import file_extension
from uncol.errors import StorageError
from uncol.storage.files import flush
from uncol.storage.plain import PlainName, check_notes, is_plain, path_in, plain_name

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


def _guarded(reader: Callable[..., Found]) -> Callable[..., Found]:
    """Return a reader of the index that waits while another thread changes it."""

    @functools.wraps(reader)
    def read(self: StudiesFolder, *arguments: Any, **named: Any) -> Found:
        with self._guard:
            return reader(self, *arguments, **named)

    return read


class StudiesFolder(LocalDatastore):  # type: ignore[misc]
    """Scans and labels in a folder, with an index of what is noted of them."""

    def __init__(self, folder: str, **options: Any) -> None:
        """Open a studies folder.

        Args:
            folder: the folder; made if missing.
            options: passed on to `LocalDatastore`.

        Raises:
            StorageError: it cannot be read or written.
        """
        self._guard = threading.RLock()
        self._frozen = bool(options.get("read_only"))
        self._patient: int | None = None  # the thread that writes the index later
        self._unwritten = False
        self._told: set[str] = set()
        try:
            super().__init__(folder, **options)
        except OSError as error:
            raise StorageError(
                f"The studies folder {folder} cannot be used: {error.strerror or error}. Labels "
                "and the index are kept there: give this user the right to read and write it."
            ) from error

    @contextmanager
    def taking_up_many(self) -> Iterator[None]:
        """Let this thread write the index once after many changes, instead of at each of them.

        For one thread at a time, and never for what a person sent: after a crash before the end,
        the next start finds the files, but their info is lost.
        """
        self._patient = threading.get_ident()
        try:
            yield
        finally:
            self._patient = None
            with self._guard:
                if self._unwritten:
                    self._update_datastore_file()

    def image_file(self, name: PlainName, extension: str) -> Path:
        """Return the path of a case's scan, whether or not it exists."""
        return path_in(self._datastore.image_path(), name, extension)

    def label_file(self, name: PlainName, tag: PlainName, extension: str) -> Path:
        """Return the path of a case's label, whether or not it exists."""
        return path_in(self._datastore.label_path(tag), name, extension)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something of a case.

        Raises:
            RequestError: it is no JSON object of bounded size.
        """
        notes = check_notes(info)
        with self._guard:
            super().update_image_info(image_id, notes)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something of a label.

        Raises:
            RequestError: it is no JSON object of bounded size.
        """
        notes = check_notes(info)
        with self._guard:
            super().update_label_info(label_id, label_tag, notes)

    list_images = _guarded(LocalDatastore.list_images)
    get_labeled_images = _guarded(LocalDatastore.get_labeled_images)
    get_unlabeled_images = _guarded(LocalDatastore.get_unlabeled_images)
    get_image_uri = _guarded(LocalDatastore.get_image_uri)
    get_image_info = _guarded(LocalDatastore.get_image_info)
    get_label_uri = _guarded(LocalDatastore.get_label_uri)
    get_label_info = _guarded(LocalDatastore.get_label_info)
    get_labels_by_image_id = _guarded(LocalDatastore.get_labels_by_image_id)
    datalist = _guarded(LocalDatastore.datalist)
    json = _guarded(LocalDatastore.json)

    def status(self) -> dict[str, Any]:
        """Return how many cases there are, how many are labeled, and labels by tag."""
        with self._guard:
            tags = Counter(tag for case in self._datastore.objects.values() for tag in case.labels)
        return {
            "total": len(self.list_images()),
            "completed": len(self.get_labeled_images()),
            "label_tags": dict(tags),
        }

    def refresh(self) -> None:
        """Take up files that were added to or removed from the folder by hand."""
        with self._guard:
            super().refresh()

    @contextmanager
    def replacing_label(
        self, name: PlainName, tag: PlainName, made: DataModel, partial: Path
    ) -> Iterator[None]:
        """Put a new label in its place and into the index, in one go or not at all.

        What may fail for want of space is done before the first file is replaced. The body runs in
        between, with the index locked.

        Args:
            name: the case.
            tag: the label's tag.
            made: what the index is to say of it.
            partial: the new file, in the folder where it belongs.

        Raises:
            OSError: something could not be written; file and index are as before.
        """
        with self._guard, FileLock(self._lock_file):
            yield
            flush(partial)
            # looked up here, not before: the folder's watcher may have replaced the index
            labels = self._datastore.objects[name].labels
            before = labels.get(tag)
            labels[tag] = made
            try:
                with self._writing_index():
                    os.replace(partial, self.label_file(name, tag, made.ext))
            except OSError:
                labels.pop(tag)
                if before is not None:
                    labels[tag] = before
                raise

    def _filename(self, id: str, ext: str) -> str:  # noqa: A002 - the base class names it so
        return f"{plain_name(id, 'case')}{ext}"

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        files: dict[str, str] = super()._list_files(path, patterns)
        for name in files.keys() - self._told:
            if not is_plain(name):
                self._told.add(name)
                shown = os.fsencode(name).decode("utf-8", "backslashreplace")
                logger.warning(
                    "Left out: the file %r: its name is hidden, too long, or not UTF-8. Rename it.",
                    shown,
                )
        return {name: file for name, file in files.items() if is_plain(name)}

    def _add_non_existing_labels(self, tag: str) -> int:
        return super()._add_non_existing_labels(tag) if is_plain(tag) else 0

    def _to_id(self, file: str) -> tuple[str, str]:
        patterns = [pattern.replace("*", "") for pattern in self._extensions]
        fitting = [end for end in (*patterns, file_extension(file)) if end and file.endswith(end)]
        extension = max(fitting, key=len, default="")
        return file[: len(file) - len(extension)], extension

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        with self._guard:  # the folder's watcher calls it from a thread of its own
            if self._unwritten:  # else what another thread has yet to write would be lost
                self._write_index()
            try:
                super()._init_from_datastore_file(throw_exception)
            except ValueError as error:  # cut by a power failure, or poisoned by an old version
                self._set_index_aside(error)
            objects = self._datastore.objects
            for name in [name for name in objects if not is_plain(name)]:
                del objects[name]

    def _set_index_aside(self, error: Exception) -> None:
        path = Path(self._datastore_config_path)
        aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        os.replace(path, aside)
        logger.error(
            "The index %s cannot be read and was set aside as %s: scans and labels are found anew, "
            "but who submitted them and with what names is not known (%s).",
            path.name,
            aside.name,
            " ".join(str(error).split())[:200],
        )

    def _update_datastore_file(self, lock: bool = True) -> None:
        if self._frozen:  # a training or scoring child: only the server writes the index
            return
        if self._patient == threading.get_ident():
            self._unwritten = True
        elif lock:
            with FileLock(self._lock_file):
                self._write_index()
        else:
            self._write_index()

    def _write_index(self) -> None:
        with self._writing_index():
            pass

    @contextmanager
    def _writing_index(self) -> Iterator[None]:
        """Write the new index, then run the body, then put it in the old one's place.

        Raises:
            OSError: it could not be written; the old one is unchanged, and the body did not run.
        """
        if self._patient == threading.get_ident():
            yield
            self._unwritten = True
            return
        path = Path(self._datastore_config_path)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        model: Mapping[str, Any] = self._datastore.model_dump(exclude={"base_path"})
        try:
            partial.write_bytes(to_json(model, indent=2, inf_nan_mode="constants", fallback=str))
            flush(partial)
            yield
            self._ignore_event_config = True
            os.replace(partial, path)
            self._unwritten = False
        finally:
            partial.unlink(missing_ok=True)
        self._config_ts = path.stat().st_mtime
