"""Segmentations in a PACS, not collected yet: each header is read once, oldest come first."""

from __future__ import annotations

import datetime
import logging
import time
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from uncol.dicom.odd import ODD
from uncol.dicom.segmentation import MANUFACTURER, is_own_result
from uncol.dicom.web import Entry, Pacs
from uncol.errors import PacsError
from uncol.storage.ledger import Ledger, Record

logger = logging.getLogger(__name__)

MADE_AT = "%Y%m%d%H%M%S.%f"
TRIES = 3  # failures after which a segmentation is left alone until the server restarts


class Looked(Record):
    """What a segmentation's header said; its `case` is its own SeriesInstanceUID.

    Attributes:
        image: SeriesInstanceUID of the segmented scan; empty if it is not a label of any scan.
        made_at: when it was made, UTC, `YYYYMMDDHHMMSS.FFFFFF`.
        after: SeriesInstanceUIDs of the segmentations that it says it replaces.
    """

    image: str
    made_at: str
    after: tuple[str, ...] = ()


class Inbox:
    """The segmentations in a PACS that are not collected yet. What headers said is kept on disk.

    A segmentation that is damaged, or that the PACS fails to deliver, never holds up the others.
    """

    def __init__(self, pacs: Pacs, path: Path) -> None:
        """Open the inbox.

        Args:
            pacs: the PACS.
            path: JSON lines file of what is known; it need not exist yet.
        """
        self._pacs = pacs
        self._ledger = Ledger(path, Looked)
        self._looked = dict(self._ledger.read())
        self._failures: Counter[str] = Counter()
        self._told: set[str] = set()
        self.complete = False  # whether the last list was looked at to its end

    def made_before(self, entry: Entry, moment: float) -> bool:
        """Say whether a segmentation was made before a moment (Unix time, s), by its header."""
        looked = self._looked.get(entry.uid)
        try:
            made = datetime.datetime.strptime(looked.made_at if looked else "", MADE_AT)
        except ValueError:
            return False
        return made.replace(tzinfo=datetime.UTC).timestamp() < moment

    def news(
        self,
        listed: Mapping[str, Entry],
        seen: Container[str],
        scans: Container[str],
        *,
        until: float,
    ) -> list[tuple[Entry, str]]:
        """Return segmentations not collected yet, each with its scan's UID, oldest first.

        Empty if time ran out before all headers were read: an older segmentation that is collected
        last would replace a later one.

        Args:
            listed: segmentations in the PACS by SeriesInstanceUID.
            seen: those that were collected, or made here.
            scans: SeriesInstanceUIDs of all scans.
            until: `time.monotonic()` when to stop asking.
        """
        fresh = [
            entry
            for uid, entry in listed.items()
            if uid not in seen and self._failures[uid] < TRIES
        ]
        self.complete = self._look_at_all(fresh, until=until)
        if not self.complete:
            return []
        known = [(entry, self._looked[e]) for entry in fresh if (e := entry.uid) in self._looked]
        ordered = [pair for pair in in_order(known) if pair[1].image in scans]
        self._tell_unclear(ordered)
        return [(entry, looked.image) for entry, looked in ordered]

    def _tell_unclear(self, ordered: Sequence[tuple[Entry, Looked]]) -> None:
        """Say where only the writers' clocks tell which of two segmentations is the later one."""
        last: dict[str, str] = {}
        for entry, looked in ordered:
            before = last.get(looked.image)
            last[looked.image] = entry.uid
            if before is None or before in looked.after or entry.uid in self._told:
                continue
            self._told.add(entry.uid)
            logger.warning(
                "Scan %s has segmentations that are both new here and do not refer to each other: "
                "%s is taken for later than %s, by their writers' clocks. If that is wrong, submit "
                "the right one again.",
                looked.image,
                entry.uid,
                before,
            )

    def _look_at_all(self, entries: Sequence[Entry], *, until: float) -> bool:
        """Fetch the headers that are not known yet; return whether there was time for all."""
        for entry in entries:
            if entry.uid in self._looked:
                continue
            if time.monotonic() > until:
                return False
            self._look(entry)
        return True

    def failed(self, entry: Entry, error: PacsError) -> bool:
        """Note that the PACS did not deliver one; return whether it is given up."""
        self._failures[entry.uid] += 1
        logger.warning("Segmentation %s is left for later: %s", entry.uid, error)
        return self._failures[entry.uid] >= TRIES

    def _look(self, entry: Entry) -> None:
        try:
            headers = self._pacs.headers(entry)
        except PacsError as error:
            self.failed(entry, error)
            return
        if not headers:
            self.failed(entry, PacsError("It has no instances."))
            return
        looked = _told(entry.uid, headers[-1])
        self._ledger.add(looked)
        self._looked[entry.uid] = looked


def in_order(known: Sequence[tuple[Entry, Looked]]) -> list[tuple[Entry, Looked]]:
    """Return segmentations oldest first: by their writers' clocks, but never before a predecessor.

    Args:
        known: each with what its header said.
    """
    by_time = sorted(known, key=lambda pair: pair[1].made_at)
    by_uid = {entry.uid: (entry, looked) for entry, looked in by_time}
    ordered: dict[str, tuple[Entry, Looked]] = {}

    def place(uid: str, above: frozenset[str]) -> None:
        if uid not in by_uid or uid in ordered or uid in above:
            return
        for earlier in by_uid[uid][1].after:
            place(earlier, above | {uid})
        ordered[uid] = by_uid[uid]

    for entry, _ in by_time:
        place(entry.uid, frozenset())
    return list(ordered.values())


def _made_at(header: Dataset) -> str:
    """Return when a segmentation was made, UTC; empty if it does not say so.

    OHIF and this app write UTC; this app did not before version 0.4.
    """
    date, clock = str(header.get("ContentDate") or ""), str(header.get("ContentTime") or "")
    whole, _, fraction = clock.partition(".")
    offset = str(header.get("TimezoneOffsetFromUTC") or "+0000")
    text = f"{date}{whole:0<6.6}.{fraction:0<6.6}{offset}"
    try:
        made = datetime.datetime.strptime(text, "%Y%m%d%H%M%S.%f%z")
    except ValueError:
        return f"{date}{clock}"
    version = str(header.get("SoftwareVersions") or "")
    if header.get("Manufacturer") == MANUFACTURER and version.startswith(("0.1.", "0.2.", "0.3.")):
        made = made.replace(tzinfo=None).astimezone()  # of this machine's zone
    return made.astimezone(datetime.UTC).strftime(MADE_AT)


def _told(uid: str, header: Dataset) -> Looked:
    try:
        references = header.get("ReferencedSeriesSequence") or []
        image = str(references[0].get("SeriesInstanceUID", "")) if references else ""
        made_at = _made_at(header)
        own = is_own_result(header)
        after = tuple(
            str(series.get("SeriesInstanceUID", ""))
            for study in header.get("PredecessorDocumentsSequence") or []
            for series in study.get("ReferencedSeriesSequence") or []
        )
    except ODD as error:
        logger.warning("Segmentation %s is not a label: its header cannot be read: %s", uid, error)
        return Looked(case=uid, image="", made_at="")
    return Looked(case=uid, image="" if own else image, made_at=made_at, after=after)
