"""The studies folder as a datastore that checks what it takes and never half-writes.

Further defects of MONAI Label 0.8.5's `LocalDatastore` that it mends:

- labels are copied straight onto the old file;
- an image uploaded under an existing id replaces that case, and its label is forgotten.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel
from monailabel.interfaces.datastore import DefaultLabelTag

from uncol.data.annotation import grid_mismatch
from uncol.data.labels import MARKS, map_label
from uncol.data.scan import file_extension, read_grid, read_scan, write_volume
from uncol.datastores.folder import StudiesFolder
from uncol.datastores.history import History
from uncol.datastores.submitted import read_submitted
from uncol.errors import LabelError, RequestError, StorageError
from uncol.storage.files import file_digest
from uncol.storage.plain import PlainName, check_notes, plain_name, shown
from uncol.types import Array

logger = logging.getLogger(__name__)

NEEDS_PACS = "to_pacs needs a case of a server whose --studies is a PACS."
FINAL = PlainName(DefaultLabelTag.FINAL.value)


class UncolDatastore(StudiesFolder):
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

        Raises:
            StorageError: the folder cannot be read or written.
        """
        self._labels = labels
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

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add a scan after checking that it can be read.

        Raises:
            ScanError: it cannot be used.
            RequestError: the id cannot be a file name, or another scan has it.
            StorageError: it could not be written.
        """
        own, extension = self._to_id(os.path.basename(image_filename))
        name = plain_name(image_id or own, "image id")
        notes = check_notes(image_info or {})
        read_scan(image_filename, case=name)
        target = self.image_file(name, extension)
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
                info = {**notes, "ts": int(time.time()), "name": target.name}
                self._datastore.objects[name] = ImageLabelModel(
                    image=DataModel(info=info, ext=extension)
                )
                self._update_datastore_file(lock=False)
        except OSError as error:
            raise StorageError(
                f"Could not keep the scan '{name}': {error.strerror}. Free some disk space and "
                "send it again."
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        return name

    def remove_image(self, image_id: str) -> None:
        """Remove a scan and its labels; submitted ones stay in the history.

        A link to a scan elsewhere goes, the scan does not.

        Raises:
            RequestError: there is no such case.
            StorageError: something could not be removed.
        """
        name = plain_name(image_id, "image id")
        try:
            with self._guard:
                item = self._datastore.objects.get(name)
                if item is None:
                    raise RequestError(f"There is no case {shown(image_id)} in the studies folder.")
                for tag in list(item.labels):
                    for path in self._remember(name, plain_name(tag, "label tag")):
                        path.unlink(missing_ok=True)
                self.image_file(name, item.image.ext).unlink(missing_ok=True)
                self.refresh()
        except OSError as error:
            raise StorageError(f"Case '{name}' could not be removed: {error.strerror}.") from error

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Save a label; a submitted one (tag `final`) is checked and mapped to the app's values.

        Raises:
            RequestError: unknown case, or an id or tag that cannot be a file name.
            LabelError: the label does not fit its scan or the app's labels.
            StorageError: it could not be written; the earlier label is unchanged.
        """
        name, tag = plain_name(image_id, "image id"), plain_name(label_tag, "label tag")
        with self._guard:
            known = name in self._datastore.objects
        if not known:
            raise RequestError(
                f"There is no case {shown(image_id)} in the studies folder. "
                "Fetch it with Next Sample, or upload the scan first."
            )
        info = check_notes(label_info or {})
        extension = self._to_id(os.path.basename(label_filename))[1]
        if tag == FINAL and extension == ".seg.nrrd":
            extension = ".nii.gz"  # kept as one plain label map
        target = self.label_file(name, tag, extension)
        partial = target.with_name(f".{os.getpid()}.{threading.get_ident()}.{target.name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if tag == FINAL:
                info = self._check_final(name, label_filename, info, partial)
            else:
                shutil.copyfile(label_filename, partial)
            info = {**info, "ts": int(time.time()), "name": target.name}
            with self.replacing_label(name, tag, DataModel(info=info, ext=extension), partial):
                before = self._remember(name, tag)
        except (OSError, StorageError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise StorageError(
                f"Could not save the label of case '{name}': {why}. The earlier label is "
                "unchanged. Free some disk space and submit again."
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        for path in before - {target}:
            path.unlink(missing_ok=True)  # the same label in another format
        return name

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

    def _remember(self, name: PlainName, tag: PlainName) -> set[Path]:
        """Keep a submitted label in the history before it is replaced; return the label's files.

        They are looked for on disk: a file that the index does not know would be lost.
        """
        known = self._datastore.label(name, tag)
        extensions = {pattern.replace("*", "") for pattern in self._extensions}
        files = set()
        for extension in extensions | ({known.ext} if known else set()):
            path = self.label_file(name, tag, extension)
            if not path.is_file():
                continue
            files.add(path)
            if tag == FINAL:
                info = known.info if known and known.ext == extension else {}
                self.history.keep(name, path, extension, info)
        return files

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; a submitted one stays in the history.

        Raises:
            RequestError: an id or tag that cannot be a file name.
            StorageError: it could not be removed.
        """
        name, tag = plain_name(label_id, "image id"), plain_name(label_tag, "label tag")
        try:
            with self._guard:
                for path in self._remember(name, tag):
                    path.unlink(missing_ok=True)
                self.refresh()  # the watcher does so a moment later; until then counts are off
        except OSError as error:
            raise StorageError(
                f"The label of case '{name}' could not be removed: {error.strerror}."
            ) from error

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Update a label's info; clients cannot change `label_info` of a submitted label.

        Raises:
            RequestError: it is no JSON object of bounded size.
        """
        if label_tag == FINAL:
            info = {word: value for word, value in info.items() if word != "label_info"}
        super().update_label_info(label_id, label_tag, info)

    def write_archive(self, target: Path, limit_cases: int | None = None) -> Path:
        """Write labeled scans, their labels and the index to a ZIP file and return its path.

        Args:
            target: the file.
            limit_cases: how many cases at most; all if not given.

        Raises:
            RequestError: nothing is labeled yet.
            StorageError: it could not be written.
        """
        pairs = self.datalist()[: limit_cases or None]
        if not pairs:
            raise RequestError("No case is labeled yet, so there is nothing to download.")
        try:
            with zipfile.ZipFile(target, mode="x") as archive:
                for pair in pairs:
                    for kind, path in pair.items():
                        archive.write(path, f"{kind}/{os.path.basename(path)}")
                archive.writestr(
                    "metadata.json", self._datastore.model_dump_json(exclude={"base_path"})
                )
        except OSError as error:
            raise StorageError(f"The archive could not be written: {error.strerror}.") from error
        return target
