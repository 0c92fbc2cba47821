"""What scans and labels there are, as MONAI Label's `Datastore` asks for it, and notes on them."""

from __future__ import annotations

import io
import json
import os
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from uncol.data.imagefile import file_extension
from uncol.data.scan import as_one_file
from uncol.datastores.listing import FINAL
from uncol.datastores.record import ScanRow, StudiesRecord, label_key
from uncol.errors import RequestError, StorageError
from uncol.storage.database import Table
from uncol.storage.plain import check_notes, shown

OF_SUBMISSION = ("label_info", "user", "ts", "name")  # of a submitted label's notes


class Catalog(Datastore):  # type: ignore[misc]
    """Scans and labels in a folder, on a record that cannot be half-written."""

    def __init__(self, folder: str, *more: Table[Any], read_only: bool) -> None:
        """Open a folder.

        Args:
            folder: the folder.
            more: further tables of the record.
            read_only: whether nothing is written.

        Raises:
            StorageError: the folder or its record cannot be read or written.
        """
        self._root = Path(folder)
        self._frozen = read_only
        self._writing = threading.RLock()
        self._name = ""
        self._description = ""
        with self._usable_folder():
            if not self._root.is_dir():
                raise NotADirectoryError(20, "it is no folder")
            if not read_only and not os.access(self._root, os.W_OK):
                raise PermissionError(13, "no permission to write there")
            self._record = StudiesRecord(self._root, *more, read_only=read_only)

    @property
    def writable(self) -> bool:
        """Whether anything can be kept."""
        return not self._frozen

    def name(self) -> str:
        """Return the datastore's name."""
        return self._name or str(self._root)

    def set_name(self, name: str) -> None:
        """Name the datastore, until the server ends."""
        self._name = name

    def description(self) -> str:
        """Return the datastore's description."""
        return self._description

    def set_description(self, description: str) -> None:
        """Describe the datastore, until the server ends."""
        self._description = description

    def list_images(self) -> list[str]:
        """Return the names of all usable cases."""
        return [name for name, row in self._record.scans.rows.items() if self._is_usable(name, row)]

    def get_labeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """Return the names of usable cases with a submitted label."""
        return [name for name in self.list_images() if self._record.counts(name)]

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """Return the names of usable cases without a submitted label."""
        return [name for name in self.list_images() if not self._record.counts(name)]

    def get_image_uri(self, image_id: str) -> str:
        """Return the path of a scan; empty if there is none."""
        row = self._record.scans.get(image_id)
        return str(self._root / row.file) if row and row.present else ""

    def get_image(self, image_id: str, params: Any = None) -> Any:
        """Return a scan's file as a stream; None if there is none."""
        return _stream(self.get_image_uri(image_id))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Return what is noted of a scan, with its `path`; empty if there is none."""
        row = self._record.scans.get(image_id)
        if row is None or not row.present:
            return {}
        info = {**row.notes, "path": str(self._root / row.file)}
        return {**info, "unusable": row.unusable} if row.unusable else info

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Return the path of a label; empty if there is none."""
        row = self._record.label(label_id, label_tag)
        return str(self._root / row.file) if row else ""

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:
        """Return a label's file as a stream; None if there is none."""
        return _stream(self.get_label_uri(label_id, label_tag))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Return what is noted of a label; empty if there is none."""
        row = self._record.label(label_id, label_tag)
        return dict(row.info) if row else {}

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Return a case's label ids by tag; the id is the case's name."""
        return dict.fromkeys(self._record.labels_of(image_id), image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """Return a case's label id, its name; empty if there is no such label."""
        return image_id if self._record.label(image_id, tag) else ""

    def datalist(self) -> list[dict[str, Any]]:
        """Return the paths of labeled scans and their labels, `{"image", "label"}` each."""
        return [
            {"image": self.get_image_uri(name), "label": self.get_label_uri(name, FINAL)}
            for name in self.get_labeled_images()
        ]

    def status(self) -> dict[str, Any]:
        """Return how many cases there are, how many are labeled, and labels by tag."""
        names = set(self.list_images())
        tags: Counter[str] = Counter()
        for case, labels in self._record.by_case().items():
            if case in names:
                tags.update(labels.keys())
        completed = sum(map(self._record.counts, names))
        return {"total": len(names), "completed": completed, "label_tags": dict(tags)}

    def json(self) -> dict[str, Any]:
        """Return all that is noted, in the form of MONAI Label's index."""
        labels = self._record.by_case()
        objects = {
            name: {
                "image": {"info": self._listed_info(name, row), "ext": row.extension},
                "labels": {
                    tag: {"info": dict(label.info), "ext": label.extension}
                    for tag, label in labels.get(name, {}).items()
                },
            }
            for name, row in self._record.scans.all().items()
            if row.present
        }
        return {"name": self.name(), "description": self.description(), "objects": objects}

    def counts(self, image_id: str) -> bool:
        """Say whether a case has a submitted label that was drawn on its scan."""
        return self._record.counts(image_id)

    def stamp_of(self, image_id: str) -> str:
        """Return a text that changes whenever a case's scan does."""
        row = self._record.scans.get(image_id)
        return f"{row.size}-{row.mtime_ns}" if row else ""

    def patient_of(self, image_id: str) -> str:
        """Return a case's patient; the case's own name where that is not known."""
        return image_id

    def is_readable(self, image_id: str) -> bool:
        """Say whether a case can be handed out."""
        row = self._record.scans.get(image_id)
        return row is not None and self._is_usable(image_id, row)

    def refresh(self) -> None:
        """Take up what is new now."""

    def take_up_news(self) -> None:
        """Take up what others have stored through this server."""
        self.refresh()

    # --- notes ---

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something of a case.

        Raises:
            RequestError: there is no such case, or it is no JSON object of bounded size.
        """
        notes = check_notes(info)
        self._refuse_frozen()
        with self._record.database.change() as change:
            row = change.get(self._record.scans, image_id)
            if row is None:
                raise RequestError(f"There is no case {shown(image_id)}.")
            merged = check_notes({**row.notes, **notes})
            change.put(self._record.scans, image_id, row.model_copy(update={"notes": merged}))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something of a label; who submitted it, when and with what names stays as it is.

        Raises:
            RequestError: there is no such label, or it is no JSON object of bounded size.
        """
        fixed = OF_SUBMISSION if label_tag == FINAL else ()
        notes = {word: value for word, value in check_notes(info).items() if word not in fixed}
        self._refuse_frozen()
        with self._record.database.change() as change:
            key = label_key(label_id, label_tag)
            row = change.get(self._record.labels, key)
            if row is None:
                raise RequestError(f"Case {shown(label_id)} has no label {shown(label_tag)}.")
            merged = check_notes({**row.info, **notes})
            change.put(self._record.labels, key, row.model_copy(update={"info": merged}))

    # --- archives ---

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Refuse: the server writes archives to where they are removed again.

        Raises:
            RequestError: always; `write_archive` writes one.
        """
        raise RequestError("Ask the server for /datastore/dataset.")

    def write_archive(self, target: Path, limit_cases: int | None = None) -> Path:
        """Write labeled scans, their labels and the index to a ZIP file and return its path.

        Args:
            target: the file.
            limit_cases: how many cases at most; all if not given.

        Raises:
            RequestError: nothing is labeled yet.
            StorageError: it could not be written.
            ScanError: a scan of two files cannot be read.
        """
        names = self.get_labeled_images()[: limit_cases or None]
        if not names:
            raise RequestError("No case is labeled yet, so there is nothing to download.")
        try:
            with zipfile.ZipFile(target, mode="x") as archive:
                for name in names:
                    scan, label = self.get_image_uri(name), self.get_label_uri(name, FINAL)
                    scan = str(as_one_file(Path(scan), target.parent, case=name))
                    archive.write(scan, f"image/{name}{file_extension(scan)}")
                    archive.write(label, f"label/{name}{file_extension(label)}")
                archive.writestr("metadata.json", json.dumps(self.json()))
        except OSError as error:
            raise StorageError(f"The archive could not be written: {error.strerror}.") from error
        return target

    def _refuse_frozen(self) -> None:
        """Refuse to keep anything where nothing is to be written.

        Raises:
            StorageError: so it is.
        """
        if self._frozen:
            raise StorageError(
                f"The studies folder {self._root} was opened for reading only "
                "(MONAI_LABEL_DATASTORE_READ_ONLY), so nothing can be kept."
            )

    def _is_usable(self, name: str, row: ScanRow) -> bool:
        return row.usable

    def _listed_info(self, name: str, row: ScanRow) -> dict[str, Any]:
        """Return what a list of all cases says of a scan."""
        return {**row.notes, **({"unusable": row.unusable} if row.unusable else {})}

    @contextmanager
    def _usable_folder(self) -> Iterator[None]:
        """Say what a person should do if the folder cannot be used."""
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"The studies folder {self._root} cannot be used: {error.strerror or error}. "
                "Labels and their record are kept there: give this user permission to read and "
                "write it."
            ) from error


def _stream(path: str) -> io.BytesIO | None:
    return io.BytesIO(Path(path).read_bytes()) if path else None
