"""The studies folder as a datastore that checks what it takes and never half-writes.

It mends defects of MONAI Label 0.8.5's `LocalDatastore`, each tested in
tests/integration/test_mends.py:

- ids and tags are joined into paths unchecked (`tag=../../evil` writes outside the folder);
- labels are copied straight onto the old file, and the index is rewritten in place;
- an image uploaded under an existing id replaces that case, and its label is forgotten;
- a child process that loaded the index rewrites it from its stale copy;
- readers see a half-filled index while the folder's watcher rebuilds it;
- `_to_id` removes the extension wherever it occurs in a name.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag

from uncol.data.annotation import grid_mismatch
from uncol.data.labels import MARKS, map_label
from uncol.data.scan import file_extension, read_grid, read_scan, write_volume
from uncol.datastores.history import History
from uncol.datastores.submitted import check_name, read_submitted
from uncol.errors import LabelError, RequestError, StorageError
from uncol.storage.files import file_digest
from uncol.types import Array

logger = logging.getLogger(__name__)

T = TypeVar("T")
NEEDS_PACS = "to_pacs needs a case of a server whose --studies is a PACS."


def _guarded(reader: Callable[..., T]) -> Callable[..., T]:
    """Return a reader of the index that waits while another thread changes it."""

    @functools.wraps(reader)
    def read(self: UncolDatastore, *arguments: Any, **named: Any) -> T:
        with self._guard:
            return reader(self, *arguments, **named)

    return read


class UncolDatastore(LocalDatastore):  # type: ignore[misc]
    """A folder of scans that knows the app's labels.

    Attributes:
        takes_results: whether the student's label and map can be stored where scans come from.
    """

    takes_results = False

    def __init__(self, folder: str, *, labels: Mapping[str, int], **options: Any) -> None:
        """Open a studies folder.

        Args:
            folder: the folder; made if missing.
            labels: the app's labels, to which submitted ones are mapped.
            options: passed on to `LocalDatastore`.
        """
        self._labels = labels
        self._guard = threading.RLock()
        self._frozen = bool(options.get("read_only"))
        self._patient: int | None = None  # the thread that writes the index later
        self._unwritten = False
        self.history = History(Path(folder))
        super().__init__(folder, **options)

    def take_up_news(self) -> None:
        """Look now for what others have stored. Nothing to do here: the folder is watched."""

    def publish_result(
        self, image_id: str, label: Array, uncertainty: Array, version: int
    ) -> dict[str, str]:
        """Store a student's label and map where scans come from.

        Raises:
            RequestError: this is not a PACS, or the case is not in it.
        """
        raise RequestError(NEEDS_PACS)

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

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add a scan after checking that it can be read.

        Raises:
            ScanError: it cannot be used.
            RequestError: the id cannot be a file name, or another scan has it.
            StorageError: it could not be written.
        """
        name = image_id or self._to_id(os.path.basename(image_filename))[0]
        check_name(name, "image id")
        read_scan(image_filename, case=name)
        extension = self._to_id(os.path.basename(image_filename))[1]
        target = Path(self._datastore.image_path()) / self._filename(name, extension)
        partial = target.with_name(f".{target.name}.{threading.get_ident()}.partial")
        try:
            shutil.copyfile(image_filename, partial)
            with self._guard, FileLock(self._lock_file):
                here = self.get_image_uri(name)
                if here and file_digest(Path(here)) == file_digest(partial):
                    return name  # the client has sent the same scan again
                if here or target.exists():
                    raise RequestError(
                        f"There is a case '{name}' already, with another scan. Send this one under "
                        "another id, or remove that case first."
                    )
                os.replace(partial, target)
                info = {**(image_info or {}), "ts": int(time.time()), "name": target.name}
                self._datastore.objects[name] = ImageLabelModel(
                    image=DataModel(info=info, ext=extension)
                )
                self._update_datastore_file(lock=False)
        except OSError as error:
            raise StorageError(
                f"Could not keep the scan '{name}': {error}. Free some disk space and send it "
                "again."
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        return name

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Save a label; a submitted one (tag `final`) is checked and mapped to the app's values.

        Raises:
            RequestError: unknown case, or an id or tag that cannot be a file name.
            LabelError: the label does not fit its scan or the app's labels.
            StorageError: it could not be written; the earlier label is unchanged.
        """
        check_name(image_id, "image id")
        check_name(label_tag, "label tag")
        with self._guard:
            known = image_id in self._datastore.objects
        if not known:
            raise RequestError(
                f"There is no case '{image_id}' in the studies folder. "
                "Fetch it with Next Sample, or upload the scan first."
            )
        info = dict(label_info or {})
        extension = self._to_id(os.path.basename(label_filename))[1]
        if label_tag == DefaultLabelTag.FINAL and extension == ".seg.nrrd":
            extension = ".nii.gz"  # kept as one plain label map
        target = Path(self._datastore.label_path(label_tag)) / self._filename(image_id, extension)
        partial = target.with_name(f".{os.getpid()}.{threading.get_ident()}.{target.name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if label_tag == DefaultLabelTag.FINAL:
                info = self._check_final(image_id, label_filename, info, partial)
            else:
                shutil.copyfile(label_filename, partial)
            with self._guard, FileLock(self._lock_file):
                before = self._remember(image_id, label_tag)
                os.replace(partial, target)
                info.update(ts=int(time.time()), name=target.name)
                # looked up here, not before: the folder's watcher may have replaced the index
                item = self._datastore.objects[image_id]
                item.labels[label_tag] = DataModel(info=info, ext=extension)
                self._update_datastore_file(lock=False)
                for path in before - {target}:
                    path.unlink(missing_ok=True)  # the same label in another format
        except OSError as error:
            raise StorageError(
                f"Could not save the label of case '{image_id}': {error}. The earlier label is "
                "unchanged. Free some disk space and submit again."
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        return image_id

    def _check_final(
        self, name: str, filename: str, info: dict[str, Any], partial: Path
    ) -> dict[str, Any]:
        """Write the label in the app's values to `partial`; return its info."""
        volume, segments = read_submitted(filename, info.get("label_info") or [], name)
        grid = read_grid(self.get_image_uri(name), case=name)
        if not volume.grid.matches(grid):
            raise LabelError(grid_mismatch(name, volume.grid.shape, grid.shape))
        mapped = map_label(volume.array, segments, self._labels, case=name)
        same_format = file_extension(filename) == file_extension(partial)
        if same_format and (mapped == volume.array).all():
            shutil.copyfile(filename, partial)
        else:
            write_volume(partial, mapped, grid)
        marks = {mark: value for mark, value in MARKS.items() if (mapped == value).any()}
        segments = {**self._labels, **marks}
        used = [{"name": segment, "idx": value} for segment, value in segments.items()]
        return {**info, "label_info": used}

    def _remember(self, name: str, tag: str) -> set[Path]:
        """Keep a submitted label in the history before it is replaced; return the label's files.

        They are looked for on disk: a file that the index does not know would be lost.
        """
        folder = Path(self._datastore.label_path(tag))
        known = self._datastore.label(name, tag)
        extensions = {pattern.replace("*", "") for pattern in self._extensions}
        files = set()
        for extension in extensions | ({known.ext} if known else set()):
            path = folder / self._filename(name, extension)
            if not path.is_file():
                continue
            files.add(path)
            if tag == DefaultLabelTag.FINAL:
                info = known.info if known and known.ext == extension else {}
                self.history.keep(name, path, extension, info)
        return files

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label."""
        check_name(label_tag, "label tag")
        with self._guard:
            for path in self._remember(label_id, label_tag):
                path.unlink(missing_ok=True)
            self.refresh()  # the folder's watcher does so a moment later; until then counts are off

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Update a case's info."""
        with self._guard:
            super().update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Update a label's info; clients cannot change `label_info` of a submitted label."""
        if label_tag == DefaultLabelTag.FINAL:
            info = {word: value for word, value in info.items() if word != "label_info"}
        with self._guard:
            super().update_label_info(label_id, label_tag, info)

    list_images = _guarded(LocalDatastore.list_images)
    get_labeled_images = _guarded(LocalDatastore.get_labeled_images)
    get_unlabeled_images = _guarded(LocalDatastore.get_unlabeled_images)
    get_image_uri = _guarded(LocalDatastore.get_image_uri)
    get_image_info = _guarded(LocalDatastore.get_image_info)
    get_label_uri = _guarded(LocalDatastore.get_label_uri)
    get_label_info = _guarded(LocalDatastore.get_label_info)
    get_labels_by_image_id = _guarded(LocalDatastore.get_labels_by_image_id)
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

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        with self._guard:  # the folder's watcher calls it from a thread of its own
            if self._unwritten:  # else what another thread has yet to write would be lost
                self._write_index()
            super()._init_from_datastore_file(throw_exception)

    def _to_id(self, file: str) -> tuple[str, str]:
        patterns = [pattern.replace("*", "") for pattern in self._extensions]
        fitting = [end for end in (*patterns, file_extension(file)) if end and file.endswith(end)]
        extension = max(fitting, key=len, default="")
        return file[: len(file) - len(extension)], extension

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
        path = Path(self._datastore_config_path)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        model = self._datastore.model_dump(exclude={"base_path"})
        try:
            partial.write_text(json.dumps(model, indent=2, default=str))
            self._ignore_event_config = True
            os.replace(partial, path)
            self._unwritten = False
        finally:
            partial.unlink(missing_ok=True)
        self._config_ts = path.stat().st_mtime
