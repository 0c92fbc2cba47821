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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from uncol.data.labels import segment_values
from uncol.data.scan import read_label, write_volume
from uncol.datastores.listing import FINAL
from uncol.datastores.pacs_fetch import scratch
from uncol.datastores.pacs_mirror import PATIENCE_S, SCAN, PacsMirror
from uncol.datastores.pacs_state import (
    LabelState,
    after_series,
    origin_of,
    reference_to,
    result_of,
)
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
from uncol.dicom.web import Entry, Pacs
from uncol.errors import PacsError, RequestError, StorageError, UncolError
from uncol.storage.database import Change
from uncol.types import Array

logger = logging.getLogger(__name__)

REMOVED = "removed"  # tag of labels whose segmentation somebody deleted in the PACS
LONGEST_WAIT_S = 120.0  # between two attempts to store a label that the PACS did not accept


class PacsDatastore(PacsMirror):
    """The scans of a PACS, with labels and results kept there too.

    Besides what the mirror keeps, a case's state holds the UIDs of its `segmentations` in the order
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
        self._missed: set[str] = set()  # segmentations that the last list lacked
        super().__init__(folder, pacs, **options)

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
                self._send(image_id)
        return image_id

    def _put_beside(self, change: Change, name: str, tag: str) -> None:
        """Note along with a submitted label that the PACS does not have it yet."""
        if tag == FINAL:
            state = change.get(self._states, name) or self._state(name)
            new = state.model_copy(update={"label": LabelState(pacs="waiting")})
            change.put(self._states, name, new)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label, also from the PACS if it allows that."""
        with self._exchange:
            state = self._states.get(label_id)
            if label_tag == FINAL and state is not None and state.label is not None:
                if state.label.pacs == "stored" and state.label.series in state.segmentations:
                    self._pacs.withdraw(state.study_uid, state.label.series)
                self._change(label_id, label=None)
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
            before = self._state(image_id).results
            for kind, dataset in made.items():
                if kind in before:
                    dataset.PredecessorDocumentsSequence = [reference_to(before[kind], series)]
                self._pacs.store(dataset)
            results = {kind: result_of(one) for kind, one in made.items()}
            self._change(image_id, results=results)
            for one in before.values():
                self._pacs.withdraw(series.study_uid, one.series)
        return {kind.lower(): one.series for kind, one in results.items()}

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
        states = self._states.all()
        seen: set[str] = set()
        for state in states.values():
            seen.update(state.segmentations)
            seen.update(one.series for one in state.results.values())
        for entry, image in self._inbox.news(listed, seen, states, until=until):
            if time.monotonic() > until:
                return
            if self._is_homeless(image) and self._inbox.made_before(entry, self._submitted(image)):
                seen_before = self._state(image).segmentations
                self._change(image, segmentations=(*seen_before, entry.uid))
            else:
                self._take_up_one(entry, image)
        if self._inbox.complete:
            self._send_homeless()

    def _is_homeless(self, image: str) -> bool:
        """Say whether nobody knows if the PACS has a label that is here: its record was lost."""
        return self._state(image).label is None and self._record.label(image, FINAL) is not None

    def _submitted(self, image: str) -> float:
        """Return when a label was submitted, Unix time, s."""
        when = self.get_label_info(image, FINAL).get("ts")
        return float(when) if isinstance(when, int | float) else 0.0

    def _send_homeless(self) -> None:
        """Let the PACS have the labels that it turned out not to have."""
        for image in self._states.all():
            if self._is_homeless(image):
                logger.warning("The label of case '%s' is sent: the PACS has none later", image)
                self._change(image, label=LabelState(pacs="waiting"))

    def _take_up_one(self, entry: Entry, image: str) -> None:
        """Make a segmentation from the PACS the label of its scan."""
        refused = ""
        try:
            dataset = latest(self._pacs.images(entry.study_uid, entry.uid))
            array, segments = read_segmentation(dataset, self.series(image).grid)
            self._keep(image, array, segments, origin_of(dataset))
            logger.info("Segmentation %s is now the label of case '%s'", entry.uid, image)
        except Exception as error:  # one odd object must not hold up all others
            if isinstance(error, PacsError) and not self._inbox.failed(entry, error):
                return  # the next attempt may succeed
            if isinstance(error, OSError | StorageError):
                logger.error("Segmentation %s waits: %s", entry.uid, error)
                return
            if not isinstance(error, UncolError):
                logger.exception("Segmentation %s", entry.uid)
            refused = f"Segmentation '{entry.tags['SeriesDescription']}' is not used: {error}"
            logger.warning("%s", refused)
        state = self._state(image)
        label = state.label if refused else LabelState(pacs="stored", series=entry.uid, listed=True)
        seen = (*state.segmentations, entry.uid)
        self._change(image, segmentations=seen, label_refused=refused, label=label)

    def _keep(
        self, image: str, array: Array, segments: dict[str, int], info: dict[str, Any]
    ) -> None:
        listed = [{"name": name, "idx": number} for name, number in segments.items()]
        with scratch(self._root) as folder:
            path = folder / f"label{SCAN}"
            write_volume(path, array.astype(np.uint8), self.series(image).grid)
            super().save_label(image, str(path), FINAL, {**info, "label_info": listed})

    def _send(self, image: str) -> None:
        """Store a submitted label in the PACS; it stays marked as waiting if that fails."""
        try:
            uid = self._store(image)
        except Exception as error:  # a label that cannot be sent must not hold up anything else
            if not isinstance(error, UncolError):
                logger.exception("The label of case '%s'", image)
            self._failures[image] += 1
            wait = min(2.0 ** self._failures[image], LONGEST_WAIT_S)
            self._again_at[image] = time.monotonic() + wait
            logger.error("The label of case '%s' is not in the PACS yet: %s", image, error)
            return
        self._failures.pop(image, None)
        seen = (*self._state(image).segmentations, uid)
        stored = LabelState(pacs="stored", series=uid)
        self._change(image, segmentations=seen, label_refused="", label=stored)

    def _store(self, image: str) -> str:
        info = self.get_label_info(image, FINAL)
        array = read_label(self.get_label_uri(image, FINAL), case=image).array
        segments = {one["name"]: one["idx"] for one in info["label_info"]}
        source = ResultOrigin(LABEL, "UnCoL label", author=str(info.get("user") or ""))
        series = self.series(image)
        dataset = write_segmentation(array, segments, series, source)
        before = self._state(image).segmentations
        if before:  # writers' clocks differ; this says which label is the later one
            dataset.PredecessorDocumentsSequence = [after_series(before[-1], series)]
        self._pacs.store(dataset)
        return str(dataset.SeriesInstanceUID)

    def _send_waiting(self, until: float) -> None:
        for image, state in self._states.all().items():
            waiting = state.label is not None and state.label.pacs == "waiting"
            now = time.monotonic()
            if waiting and now < until and now >= self._again_at.get(image, now):
                self._send(image)

    def _retire_deleted(self, listed: dict[str, Entry]) -> None:
        """Retire labels whose segmentation was deleted; the one before it, if any, counts again.

        Only a segmentation that was listed before, and then missed twice, counts as deleted: one
        that was stored a moment ago may not be listed yet, and a PACS may answer with an empty
        list once.
        """
        for image, state in self._states.all().items():
            if state.label is None or state.label.pacs != "stored":
                continue
            if state.label.series in listed:
                self._missed.discard(state.label.series)
                if not state.label.listed:
                    self._change(image, label=state.label.model_copy(update={"listed": True}))
            elif state.label.listed and self._missed_before(state.label.series):
                logger.warning("The segmentation of case '%s' was deleted in the PACS", image)
                self._retire(image)
                left = tuple(uid for uid in state.segmentations if uid in listed)
                self._change(image, segmentations=left[:-1], label=None)  # the last is read again

    def _missed_before(self, uid: str) -> bool:
        """Say whether the list before lacked a segmentation, too; remember that this one does."""
        missed = uid in self._missed
        self._missed.add(uid)
        return missed

    def _retire(self, image: str) -> None:
        """Take a submitted label back; it is kept under the tag `removed`."""
        path = self.get_label_uri(image, FINAL)
        if path and Path(path).exists():
            info = dict(super().get_label_info(image, FINAL))
            super().save_label(image, path, REMOVED, info)
        super().remove_label(image, FINAL)

    def _scan_changed(self, uid: str) -> None:
        """Read the label of a scan that has grown again, on all of its slices."""
        state = self._state(uid)
        if state.label is not None and state.label.pacs == "stored":
            self._retire(uid)
            self._change(uid, segmentations=state.segmentations[:-1], label=None)
