"""The scans of a PACS as a datastore: listed from it, fetched when somebody needs them.

The server keeps a mirror: a folder like that of `UncolDatastore`, its index filled from the PACS.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from uncol.datastores.changes import Changes
from uncol.datastores.earlier import read_index, retire_index
from uncol.datastores.listing import FINAL, look_into
from uncol.datastores.pace import LONGEST_S, pause_after
from uncol.datastores.pacs_fetch import fetch
from uncol.datastores.pacs_state import ScanState, from_notes
from uncol.datastores.record import ScanRow
from uncol.datastores.studies import UncolDatastore
from uncol.dicom.series import Series, read_headers
from uncol.dicom.web import Entry, Pacs
from uncol.errors import RequestError, ScanError, StorageError, UncolError, why
from uncol.storage.database import Table
from uncol.storage.plain import path_in, plain_name

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0  # longest exchange with the PACS in one request; the rest is left to the next
GROWN_SINCE_S = 10.0  # a series that has grown since is taken for whole
SCAN = ".nii.gz"
GONE = "It is no longer in the PACS."
GROWN = "It has grown in the PACS and is fetched again; check its label."


class PacsMirror(UncolDatastore):
    """Scans only. A case's id is its SeriesInstanceUID; what the server knows of it is its state.

    If a scan cannot be used, its info says why in `unusable`.
    """

    def __init__(self, folder: str, pacs: Pacs, **options: Any) -> None:
        """Open the mirror of a PACS.

        Args:
            folder: where scans, labels and the index are kept.
            pacs: the PACS.
            options: as for `UncolDatastore`.

        Raises:
            StorageError: the folder cannot be read or written.
        """
        self._pacs = pacs
        self._exchange = threading.RLock()  # one exchange with the PACS at a time
        self._next_at = 0.0
        self._news = False  # stored there through this server, and not looked for yet
        self._grew_at: dict[str, float] = {}
        self._states: Table[ScanState] = Table("pacs", ScanState)
        Path(folder).mkdir(parents=True, exist_ok=True)
        super().__init__(folder, self._states, **options)
        self._take_over()
        if not self._frozen:
            self._try_again()

    def name(self) -> str:
        """Return the URL of the PACS."""
        return self._pacs.url

    def list_images(self) -> list[str]:
        """Return the ids of all usable scans."""
        self.synchronize()
        return super().list_images()

    def stamp_of(self, image_id: str) -> str:
        """Return a text that changes whenever a case's series does."""
        state = self._states.get(image_id)
        return f"grown-{state.grown}" if state and state.grown else ""

    def patient_of(self, image_id: str) -> str:
        """Return a case's PatientID; the case's own id where the PACS tells none."""
        state = self._states.get(image_id)
        return (state.tags.get("PatientID") if state else "") or image_id

    def json(self) -> dict[str, Any]:
        """Return the whole index, with what the server knows of each scan."""
        self.synchronize()
        index: dict[str, Any] = super().json()
        for uid, state in self._states.all().items():
            item = index["objects"].get(uid)
            if item is not None:
                item["image"]["info"] |= state.told(uid)
                if FINAL in item["labels"]:
                    item["labels"][FINAL]["info"] |= state.told_of_label()
        return index

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Return the notes on a scan, and what the server knows of it."""
        info = super().get_image_info(image_id)
        state = self._states.get(image_id)
        return {**info, **state.told(image_id)} if info and state else info

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Return the notes on a label, and for a submitted one where it is."""
        info = super().get_label_info(label_id, label_tag)
        state = self._states.get(label_id)
        return {**info, **state.told_of_label()} if info and state and label_tag == FINAL else info

    def get_image_uri(self, image_id: str) -> str:
        """Return the path of a scan as NIfTI, fetched from the PACS the first time.

        Raises:
            ScanError: the series is not a volume; the case is left out from then on.
            PacsError: the PACS does not deliver it.
            StorageError: it could not be written.
        """
        path = super().get_image_uri(image_id)
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
            self._next_at = time.monotonic() + LONGEST_S  # others need not wait for a slow PACS
            return
        try:
            if self._news or time.monotonic() >= self._next_at:
                self._try_to_ask()
        finally:
            self._exchange.release()

    def take_up_news(self) -> None:
        """Query the PACS now: something was stored there through this server.

        A query that runs already may have listed the PACS before that; it does not count.
        """
        self._news = True
        self._next_at = 0.0
        self.synchronize()

    def series(self, image_id: str) -> Series:
        """Return a scan's DICOM headers with its grid, fetched with the scan.

        Raises:
            ScanError, PacsError, StorageError: the scan could not be fetched.
        """
        self.get_image_uri(image_id)
        return read_headers(self._headers(image_id), case=image_id)

    def _state(self, image_id: str) -> ScanState:
        """Return what is known of a scan.

        Raises:
            RequestError: there is no such scan.
        """
        state = self._states.get(image_id)
        if state is None:
            raise RequestError(f"There is no case '{image_id}' in the PACS.")
        return state

    def _change(self, image_id: str, **changes: Any) -> None:
        """Keep something new about a scan."""
        if not self._frozen:
            with self._record.database.change() as change:
                state = change.get(self._states, image_id) or self._state(image_id)
                change.put(self._states, image_id, state.model_copy(update=changes))

    def _try_to_ask(self) -> None:
        self._news = False  # before the query: what is stored while it runs is for the next one
        try:
            took = self._ask()
        except (UncolError, OSError) as error:
            took = LONGEST_S
            logger.warning("%s", error)
        self._next_at = 0.0 if self._news else time.monotonic() + pause_after(took)

    def _ask(self) -> float:
        """Take up what the PACS lists; return the seconds that listing took."""
        start = time.monotonic()
        scans = self._pacs.scans()
        took = time.monotonic() - start
        self._take_up(scans)
        return took

    def _take_up(self, listed: dict[str, Entry]) -> None:
        known = self._states.all()
        changed = _changes(known, listed)
        if changed:
            with self._record.database.change() as change:
                for uid, state in changed.items():
                    change.put(self._states, uid, state)
                    if self._record.scans.get(uid) is None:
                        file = f"{uid}{SCAN}"
                        change.put(
                            self._record.scans, uid, ScanRow(file=file, notes={"name": file})
                        )
        fetched = set(os.listdir(self._headers_root)) if self._headers_root.is_dir() else set()
        for uid in listed.keys() & known.keys() & fetched:
            self._compare(uid, known[uid].count, listed[uid].count)

    def _compare(self, uid: str, fetched: int | None, listed: int | None) -> None:
        """Fetch a series again that has grown since it was fetched."""
        if fetched is None:  # by a child, which writes no state
            fetched = len(os.listdir(self._headers(uid)))
            self._change(uid, count=fetched)
        if listed is None or listed <= fetched:
            return
        logger.warning("Series %s has grown from %s to %s images", uid, fetched, listed)
        self._grew_at[uid] = time.monotonic()
        self._forget(uid)
        grown = self._state(uid).grown + 1
        self._change(uid, count=None, unusable="", label_refused=GROWN, grown=grown)
        self._scan_changed(uid)

    def _scan_changed(self, uid: str) -> None:
        """Do what a label needs whose scan is another one now."""

    def _forget(self, uid: str) -> None:
        """Remove the mirrored files of a scan."""
        path = path_in(self._root, plain_name(uid, "series"), SCAN)
        with FileLock(path.with_name(f".{path.name}.lock")):
            path.unlink(missing_ok=True)
            shutil.rmtree(self._headers(uid), ignore_errors=True)

    @property
    def _headers_root(self) -> Path:
        return self._root / "headers"

    def _headers(self, image_id: str) -> Path:
        return path_in(self._headers_root, plain_name(image_id, "series"))

    def _fetch(self, image_id: str, path: Path) -> None:
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.exists():  # another process has fetched it meanwhile
                return
            try:
                study = self._state(image_id).study_uid
                count = fetch(self._pacs, study, image_id, path, self._headers(image_id))
                self._change(image_id, count=count)
            except ScanError as error:
                self._change(image_id, unusable=str(error))
                logger.warning("%s", error)
                raise
            except OSError as error:
                raise StorageError(
                    f"Scan '{image_id}' could not be kept: {why(error)}. Free some disk space."
                ) from error

    def _is_usable(self, name: str, row: ScanRow) -> bool:
        state = self._states.get(name)
        settled = time.monotonic() - self._grew_at.get(name, float("-inf")) > GROWN_SINCE_S
        return state is not None and not state.unusable and settled

    def _try_again(self) -> None:
        """Forget which scans could not be used before: the reason may have gone."""
        with self._record.database.change() as change:
            for uid, state in self._states.all().items():
                if state.unusable not in ("", GONE):
                    change.put(self._states, uid, state.model_copy(update={"unusable": ""}))

    def _take_over(self) -> None:
        """Take up labels that the record does not know, and what an earlier version kept."""
        changes = Changes(self._root, self._record, self.history, frozen=self._frozen)
        changes.earlier = read_index(self._root)  # it has another name once all was taken over
        with self._usable_folder(), self._record.database.change() as change:
            for uid, case in changes.earlier.items():
                _, notes = case.labels.get(FINAL, ("", {}))
                state = from_notes(uid, case.info, notes if FINAL in case.labels else None)
                if state is not None and self._states.get(uid) is None:
                    change.put(self._states, uid, state)
                    row = ScanRow(file=f"{uid}{SCAN}", notes=case.info)
                    change.put(self._record.scans, uid, row)
        changes.take_up(look_into(self._root), labels_only=True)
        if not self._frozen:
            retire_index(self._root)


def _changes(known: Mapping[str, ScanState], listed: Mapping[str, Entry]) -> dict[str, ScanState]:
    """Return what a list of the PACS changes: scans that are gone, back, or new."""
    changed = {
        uid: ScanState(study_uid=entry.study_uid, tags=entry.tags)
        for uid, entry in listed.items()
        if uid not in known
    }
    for uid, state in known.items():
        if uid not in listed and state.unusable != GONE:
            # kept, with its label, in case it comes back
            changed[uid] = state.model_copy(update={"unusable": GONE})
        elif uid in listed and state.unusable == GONE:
            changed[uid] = state.model_copy(update={"unusable": ""})
    return changed
