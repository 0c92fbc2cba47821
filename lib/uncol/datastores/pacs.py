"""A PACS as a datastore: scans come from it, labels and maps go to it.

Scans are mirrored (`pacs_mirror.py`). Labels live in both places: to store a DICOM Segmentation of
a scan in the PACS is to submit a label.

It replaces MONAI Label 0.8.5's `DICOMWebDatastore`, which lists CT only, caches its lists for two
hours (a label just submitted is not counted), reads labels back cropped and renumbered, and treats
every segmentation in the PACS as a label.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import DefaultLabelTag
from pydicom.dataset import Dataset

from uncol.data.labels import segment_values
from uncol.data.scan import read_label, write_volume
from uncol.datastores.pacs_mirror import PATIENCE_S, SCAN, PacsMirror, scratch
from uncol.datastores.studies import NEEDS_PACS
from uncol.dicom.inbox import Inbox
from uncol.dicom.parametric_map import write_map
from uncol.dicom.segmentation import (
    LABEL,
    STUDENT,
    UNCERTAINTY,
    ResultOrigin,
    latest,
    read_segmentation,
    write_segmentation,
)
from uncol.dicom.series import Series
from uncol.dicom.web import Entry, Pacs
from uncol.errors import LabelError, PacsError, RequestError, ScanError, UncolError
from uncol.types import Array

logger = logging.getLogger(__name__)

FINAL = DefaultLabelTag.FINAL
REMOVED = "removed"  # tag of labels whose segmentation somebody deleted in the PACS
LONGEST_WAIT_S = 120.0  # between two attempts to store a label that the PACS did not accept


class PacsDatastore(PacsMirror):
    """The scans of a PACS, with labels and results kept there too.

    Besides what the mirror keeps, a case's info holds the UIDs of its `segmentations` in the order
    they arrived, the student's `results` by kind, and in `label_refused` why the latest
    segmentation is not used.
    """

    takes_results = True

    def __init__(self, folder: str, pacs: Pacs, **options: Any) -> None:
        """Open the mirror of a PACS.

        Args:
            folder: where scans, labels and the index are kept.
            pacs: the PACS.
            options: as for `UncolDatastore`.
        """
        self._inbox = Inbox(pacs, Path(folder) / "segmentations.jsonl")
        self._failures: Counter[str] = Counter()  # of storing a case's label
        self._again_at: dict[str, float] = {}
        super().__init__(folder, pacs, **options)

    @contextmanager
    def taking_up_many(self) -> Iterator[None]:
        """Write the index at each change: what was exchanged with the PACS must not be lost."""
        yield

    # --- labels ---

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Save a label here and, if it is a submitted one, in the PACS.

        If the PACS does not accept it now, it is sent again later.

        Raises:
            RequestError, LabelError, StorageError: as `UncolDatastore.save_label`.
            ScanError, PacsError: the scan could not be fetched.
        """
        self.list_images()
        self.get_image_uri(image_id)
        with self._exchange:
            super().save_label(image_id, label_filename, label_tag, label_info)
            if label_tag == FINAL:
                self.update_label_info(image_id, FINAL, {"pacs": "waiting"})
                self._send(image_id)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label, also from the PACS if it allows that."""
        with self._exchange:
            info = self.get_label_info(label_id, label_tag)
            if label_tag == FINAL and info.get("pacs") == "stored":
                study = self.get_image_info(label_id)["StudyInstanceUID"]
                self._pacs.withdraw(study, info["SeriesInstanceUID"])
            super().remove_label(label_id, label_tag)

    # --- results of the student ---

    def publish_result(
        self, image_id: str, label: Array, uncertainty: Array, version: int
    ) -> dict[str, str]:
        """Store a student's label and map in the PACS, in place of an earlier version's.

        The new results name the earlier ones as their predecessors. DICOMweb has no delete, so the
        earlier ones are removed only where the server offers it anyway.

        Args:
            image_id: the case.
            label: `(I, J, K)`, 0...N.
            uncertainty: `(I, J, K)` float32 in [0, 1].
            version: the model version.

        Returns:
            SeriesInstanceUID by kind, `student` and `uncertainty`.

        Raises:
            PacsError: the PACS does not accept them.
            RequestError: the case is not in the PACS.
        """
        if image_id not in self.list_images():
            raise RequestError(NEEDS_PACS)
        series = self.series(image_id)
        made = {
            UNCERTAINTY: write_map(
                uncertainty,
                series,
                ResultOrigin(UNCERTAINTY, f"UnCoL uncertainty, model {version}", version),
            )
        }
        if label.any():
            student = ResultOrigin(STUDENT, f"UnCoL label, model {version}", version)
            made[STUDENT] = write_segmentation(label, self._labels, series, student)
        with self._exchange:
            before: dict[str, dict[str, str]] = self.get_image_info(image_id).get("results", {})
            for kind, dataset in made.items():
                if kind in before:
                    dataset.PredecessorDocumentsSequence = [_reference(before[kind], series)]
                self._pacs.store(dataset)
            results = {
                kind: {
                    "series": str(one.SeriesInstanceUID),
                    "instance": str(one.SOPInstanceUID),
                    "class": str(one.SOPClassUID),
                }
                for kind, one in made.items()
            }
            self.update_image_info(image_id, {"results": results})
            for one in before.values():
                self._pacs.withdraw(series.study_uid, one["series"])
        return {kind.lower(): one["series"] for kind, one in results.items()}

    def segmentation(
        self, image_id: str, label_filename: str, label_info: Sequence[Mapping[str, Any]]
    ) -> Dataset:
        """Return a label map of a case as a DICOM Segmentation, without storing it.

        Args:
            image_id: the case.
            label_filename: a label map in the case's grid.
            label_info: its segments, `{"name", "idx"}` each.

        Raises:
            LabelError: it is empty, or `label_info` does not explain its values.
        """
        array = read_label(label_filename, case=image_id).array
        segments = segment_values(label_info, np.unique(array).tolist(), image_id)
        source = ResultOrigin(STUDENT, "UnCoL label")
        return write_segmentation(array, segments, self.series(image_id), source)

    # --- exchange with the PACS ---

    def _ask(self) -> float:
        took = super()._ask()
        start = time.monotonic()
        segmentations = self._pacs.segmentations()
        took += time.monotonic() - start
        self._take_up_segmentations(segmentations)
        return took

    def _take_up_segmentations(self, listed: dict[str, Entry]) -> None:
        until = time.monotonic() + PATIENCE_S
        self._send_waiting(until)
        self._retire_deleted(listed)
        seen: set[str] = set()
        for case in self._datastore.objects.values():
            seen.update(case.image.info.get("segmentations", []))
            seen.update(one["series"] for one in case.image.info.get("results", {}).values())
        for entry, image in self._inbox.news(listed, seen, self._datastore.objects, until=until):
            if time.monotonic() > until:
                return
            self._take_up_one(entry, image)

    def _take_up_one(self, entry: Entry, image: str) -> None:
        """Make a segmentation from the PACS the label of its scan."""
        refused = ""
        try:
            dataset = latest(self._pacs.images(entry.study_uid, entry.uid))
            array, segments = read_segmentation(dataset, self.series(image).grid)
            self._keep(image, array, segments, _origin(entry, dataset))
            logger.info("Segmentation %s is now the label of case '%s'", entry.uid, image)
        except (LabelError, ScanError, PacsError) as error:
            if isinstance(error, PacsError) and not self._inbox.failed(entry, error):
                return  # the next attempt may succeed
            refused = f"Segmentation '{entry.tags['SeriesDescription']}' is not used: {error}"
            logger.warning("%s", refused)
        seen = [*self._datastore.objects[image].image.info.get("segmentations", []), entry.uid]
        self.update_image_info(image, {"segmentations": seen, "label_refused": refused})

    def _keep(
        self, image: str, array: Array, segments: dict[str, int], info: dict[str, Any]
    ) -> None:
        listed = [{"name": name, "idx": number} for name, number in segments.items()]
        with scratch(self._datastore_path) as folder:
            path = folder / f"{image}{SCAN}"
            write_volume(path, array.astype(np.uint8), self.series(image).grid)
            super().save_label(image, str(path), FINAL, {**info, "label_info": listed})

    def _send(self, image: str) -> None:
        """Store a submitted label in the PACS; it stays marked as waiting if that fails."""
        try:
            uid = self._store(image)
        except UncolError as error:
            self._failures[image] += 1
            wait = min(2.0 ** self._failures[image], LONGEST_WAIT_S)
            self._again_at[image] = time.monotonic() + wait
            logger.error("The label of case '%s' is not in the PACS yet: %s", image, error)
            return
        self._failures.pop(image, None)
        seen = [*self.get_image_info(image).get("segmentations", []), uid]
        self.update_image_info(image, {"segmentations": seen, "label_refused": ""})
        stored = {"pacs": "stored", "SeriesInstanceUID": uid, "listed": False}
        self.update_label_info(image, FINAL, stored)

    def _store(self, image: str) -> str:
        info = self.get_label_info(image, FINAL)
        array = read_label(self.get_label_uri(image, FINAL), case=image).array
        segments = {one["name"]: one["idx"] for one in info["label_info"]}
        source = ResultOrigin(LABEL, "UnCoL label", author=str(info.get("user") or ""))
        dataset = write_segmentation(array, segments, self.series(image), source)
        self._pacs.store(dataset)
        return str(dataset.SeriesInstanceUID)

    def _send_waiting(self, until: float) -> None:
        for image, case in list(self._datastore.objects.items()):
            label = case.labels.get(FINAL)
            waiting = label is not None and label.info.get("pacs") == "waiting"
            now = time.monotonic()
            if waiting and now < until and now >= self._again_at.get(image, now):
                self._send(image)

    def _retire_deleted(self, listed: dict[str, Entry]) -> None:
        """Retire labels whose segmentation was deleted; the one before it, if any, counts again.

        Only a segmentation that was listed before can count as deleted: one that was stored a
        moment ago may not be listed yet.
        """
        for image, case in list(self._datastore.objects.items()):
            label = case.labels.get(FINAL)
            if label is None or label.info.get("pacs") != "stored":
                continue
            if label.info["SeriesInstanceUID"] in listed:
                if not label.info.get("listed"):
                    self.update_label_info(image, FINAL, {"listed": True})
                continue
            if not label.info.get("listed"):
                continue
            logger.warning("The segmentation of case '%s' was deleted in the PACS", image)
            path = self.get_label_uri(image, FINAL)
            super().save_label(image, path, REMOVED, dict(label.info))
            super().remove_label(image, FINAL)
            left = [uid for uid in case.image.info.get("segmentations", []) if uid in listed]
            self.update_image_info(image, {"segmentations": left[:-1]})  # the last is read again


def _origin(entry: Entry, dataset: Dataset) -> dict[str, Any]:
    return {
        "pacs": "stored",
        "SeriesInstanceUID": entry.uid,
        "listed": True,
        "user": str(dataset.get("ContentCreatorName") or ""),
        "made_with": str(dataset.get("ManufacturerModelName") or dataset.get("Manufacturer") or ""),
    }


def _reference(before: dict[str, str], series: Series) -> Dataset:
    """Return a reference to an earlier result (PredecessorDocumentsSequence, PS3.3 C.17.2)."""
    instance, of_series, of_study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID = before["class"]
    instance.ReferencedSOPInstanceUID = before["instance"]
    of_series.SeriesInstanceUID = before["series"]
    of_series.ReferencedSOPSequence = [instance]
    of_study.StudyInstanceUID = series.study_uid
    of_study.ReferencedSeriesSequence = [of_series]
    return of_study
