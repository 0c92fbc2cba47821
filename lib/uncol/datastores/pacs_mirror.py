"""The scans of a PACS as a datastore: listed from it, fetched when somebody needs them.

The server keeps a mirror: a folder like that of `UncolDatastore`, its index filled from the PACS.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel

from uncol.data.scan import write_volume
from uncol.datastores.studies import UncolDatastore
from uncol.dicom.series import Series, read_headers, read_series
from uncol.dicom.web import Entry, Pacs
from uncol.errors import RequestError, ScanError, StorageError, UncolError
from uncol.types import Array

logger = logging.getLogger(__name__)

FRESH_S = (1.0, 30.0)  # shortest and longest pause between two queries of the PACS
SHARE = 20  # in between: this many times what the last query took, to spare a slow PACS
PATIENCE_S = 5.0  # longest exchange with the PACS in one request; the rest is left to the next
SCAN = ".nii.gz"
GONE = "It is no longer in the PACS."


class PacsMirror(UncolDatastore):
    """Scans only. A case's id is its SeriesInstanceUID; its info holds what the PACS lists of it.

    If a scan cannot be used, its info says why in `unusable`.
    """

    def __init__(self, folder: str, pacs: Pacs, **options: Any) -> None:
        """Open the mirror of a PACS.

        Args:
            folder: where scans, labels and the index are kept.
            pacs: the PACS.
            options: as for `UncolDatastore`.
        """
        self._pacs = pacs
        self._exchange = threading.RLock()  # one exchange with the PACS at a time
        self._next_at = 0.0
        super().__init__(folder, **options)

    def name(self) -> str:
        """Return the URL of the PACS."""
        return self._pacs.url

    def list_images(self) -> list[str]:
        """Return the ids of all usable scans."""
        self.synchronize()
        return self._usable(super().list_images())

    def get_labeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """Return the ids of usable scans with a submitted label."""
        self.synchronize()
        return self._usable(super().get_labeled_images(label_tag, labels))

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """Return the ids of usable scans without a submitted label."""
        self.synchronize()
        return self._usable(super().get_unlabeled_images(label_tag, labels))

    def json(self) -> dict[str, Any]:
        """Return the whole index."""
        self.synchronize()
        index: dict[str, Any] = super().json()
        return index

    def get_image_uri(self, image_id: str) -> str:
        """Return the path of a scan as NIfTI, fetched from the PACS the first time.

        Raises:
            ScanError: the series is not a volume; the case is left out from then on.
            PacsError: the PACS does not deliver it.
            StorageError: it could not be written.
        """
        path: str = super().get_image_uri(image_id)
        if path and not Path(path).exists():
            self._fetch(image_id, Path(path))
        return path

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refuse: scans come from the PACS.

        Raises:
            RequestError: always.
        """
        raise RequestError("This server's scans come from the PACS; store the scan there.")

    def remove_image(self, image_id: str) -> None:
        """Refuse: the scan would come back from the PACS.

        Raises:
            RequestError: always.
        """
        raise RequestError("This server's scans come from the PACS; delete the scan there.")

    def synchronize(self) -> None:
        """Take up what is new in the PACS.

        Queries it at most once per second, a slow one less often. If it does not answer, the index
        stays as it is.
        """
        if self._frozen or time.monotonic() < self._next_at:
            return
        if not self._exchange.acquire(timeout=PATIENCE_S):
            return  # another request is querying
        try:
            if time.monotonic() >= self._next_at:
                self._try_to_ask()
        finally:
            self._exchange.release()

    def take_up_news(self) -> None:
        """Query the PACS now: something was stored there through this server."""
        self._next_at = 0.0
        self.synchronize()

    def _try_to_ask(self) -> None:
        try:
            took = self._ask()
        except UncolError as error:
            took = FRESH_S[1]
            logger.warning("%s", error)
        self._next_at = time.monotonic() + float(np.clip(SHARE * took, *FRESH_S))

    def _ask(self) -> float:
        """Take up what the PACS lists; return the seconds that listing took."""
        start = time.monotonic()
        scans = self._pacs.scans()
        took = time.monotonic() - start
        self._take_up(scans)
        return took

    def _take_up(self, listed: dict[str, Entry]) -> None:
        objects = self._datastore.objects
        gone = {uid for uid in objects.keys() - listed.keys() if not _is_gone(objects[uid])}
        back = {uid for uid in objects.keys() & listed.keys() if _is_gone(objects[uid])}
        fresh = listed.keys() - objects.keys()
        if not gone | back | fresh:
            return
        with self._guard:
            for uid in gone:  # kept, with its label, in case it comes back
                objects[uid].image.info["unusable"] = GONE
            for uid in back:
                objects[uid].image.info["unusable"] = ""
            for uid in fresh:
                entry = listed[uid]
                info = {**entry.tags, "SeriesInstanceUID": uid, "StudyInstanceUID": entry.study_uid}
                info["name"] = f"{uid}{SCAN}"
                objects[uid] = ImageLabelModel(image=DataModel(info=info, ext=SCAN))
            self._update_datastore_file()

    def series(self, image_id: str) -> Series:
        """Return a scan's DICOM headers with its grid, fetched with the scan.

        Raises:
            ScanError, PacsError, StorageError: the scan could not be fetched.
        """
        self.get_image_uri(image_id)
        return read_headers(self._headers(image_id), case=image_id)

    def _headers(self, image_id: str) -> Path:
        return Path(self._datastore_path) / "headers" / image_id

    def _fetch(self, image_id: str, path: Path) -> None:
        info = self._datastore.objects[image_id].image.info
        with FileLock(path.with_name(f".{path.name}.lock")), scratch(self._datastore_path) as work:
            if path.exists():  # another process has fetched it meanwhile
                return
            received = work / "received"
            received.mkdir()
            try:
                for number, one in enumerate(self._pacs.images(info["StudyInstanceUID"], image_id)):
                    one.save_as(received / f"{number:05d}.dcm", write_like_original=False)
                volume, series = read_series(received, case=image_id)
                write_volume(work / path.name, _compact(volume.array), volume.grid)
                headers = work / "headers"
                headers.mkdir()
                for number, header in enumerate(series.headers):
                    header.save_as(headers / f"{number:05d}.dcm")
                self._headers(image_id).parent.mkdir(exist_ok=True)
                # left by a fetch that was killed between the two renames
                shutil.rmtree(self._headers(image_id), ignore_errors=True)
                headers.rename(self._headers(image_id))
                (work / path.name).rename(path)
            except ScanError as error:
                self.update_image_info(image_id, {"unusable": str(error)})
                logger.warning("%s", error)
                raise
            except OSError as error:
                raise StorageError(
                    f"Scan '{image_id}' could not be kept: {error}. Free some disk space."
                ) from error

    def _usable(self, names: Sequence[str]) -> list[str]:
        objects = self._datastore.objects
        return [n for n in names if n in objects and not objects[n].image.info.get("unusable")]

    def _add_non_existing_images(self) -> int:
        self._init_from_datastore_file()
        return 0  # the index is filled from the PACS, not from the folder

    def _remove_non_existing(self) -> int:
        gone = 0
        for image, case in self._datastore.objects.items():
            for tag, label in list(case.labels.items()):
                name = self._filename(image, label.ext)
                if not (Path(self._datastore.label_path(tag)) / name).exists():
                    del case.labels[tag]
                    gone += 1
        return gone


def _is_gone(case: ImageLabelModel) -> bool:
    return bool(case.image.info.get("unusable") == GONE)


@contextmanager
def scratch(folder: str) -> Iterator[Path]:
    """Yield a temporary folder beside the scans, so that files can be renamed into place."""
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=folder) as name:
        yield Path(name)


def _compact(array: Array) -> Array:
    """Return the array as int16, half the size, if that changes no value."""
    small = array.astype(np.int16)
    return small if np.array_equal(small, array) else array
