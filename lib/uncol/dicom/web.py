"""A PACS over DICOMweb: search it, fetch from it, store in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from requests import RequestException

from uncol.dicom.odd import ODD
from uncol.errors import PacsError, why

COUNT = "NumberOfSeriesRelatedInstances"
PAGE = 500  # series requested at once
TOLD = ("Modality", "StudyDate", "StudyTime", "PatientID", "SeriesDescription", "RetrieveURL")


@dataclass(frozen=True)
class Entry:
    """A series in the PACS.

    Attributes:
        uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID.
        tags: further attributes of the search result, those of `TOLD`.
        count: number of its instances; None if the PACS does not tell.
    """

    uid: str
    study_uid: str
    tags: dict[str, str]
    count: int | None = None


class Pacs:
    """One DICOMweb server."""

    def __init__(self, client: DICOMwebClient, searches: Sequence[Mapping[str, str]]) -> None:
        """Wrap a connection.

        Args:
            client: the connection.
            searches: filters, e.g. `{"Modality": "CT"}`; a series that any of them finds is a scan.
        """
        self._client = client
        self._searches = searches

    @property
    def url(self) -> str:
        """Its address."""
        return str(self._client.base_url)

    def scans(self) -> dict[str, Entry]:
        """Return all scans by SeriesInstanceUID.

        Raises:
            PacsError: the PACS does not answer.
        """
        return {entry.uid: entry for search in self._searches for entry in self._search(search)}

    def segmentations(self) -> dict[str, Entry]:
        """Return all segmentation series by SeriesInstanceUID.

        Raises:
            PacsError: the PACS does not answer.
        """
        return {entry.uid: entry for entry in self._search({"Modality": "SEG"})}

    def count(self, study_uid: str, uid: str) -> int | None:
        """Return how many instances a series has now; None if the PACS does not tell.

        Raises:
            PacsError: the PACS does not answer.
        """
        query = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": uid}
        return next((one.count for one in self._search(query) if one.uid == uid), None)

    def headers(self, entry: Entry) -> list[Dataset]:
        """Return a series' headers.

        Raises:
            PacsError: the PACS does not answer.
        """
        with self._asked("give headers of a series"):
            metadata = self._client.retrieve_series_metadata(entry.study_uid, entry.uid)
            return [_parsed(one) for one in metadata]

    def images(self, study_uid: str, uid: str) -> Iterator[Dataset]:
        """Yield a series' instances with their pixels.

        Raises:
            PacsError: the PACS does not answer.
        """
        with self._asked("give a series"):
            yield from self._client.iter_series(study_uid, uid)

    def store(self, dataset: Dataset) -> None:
        """Store a data set.

        Raises:
            PacsError: the PACS does not answer, or refuses it.
        """
        with self._asked("take a result"):
            answer = self._client.store_instances([dataset])
            refused = answer.get("FailedSOPSequence") or []
            if refused:
                code = refused[0].get("FailureReason", "unknown")
                raise PacsError(f"The PACS at {self.url} refused a result (reason {code}).")

    def withdraw(self, study_uid: str, uid: str) -> bool:
        """Delete a series and return whether the PACS did; DICOMweb does not require it to."""
        try:
            self._client.delete_series(study_uid, uid)
        except RequestException:
            return False
        return True

    def _search(self, search: Mapping[str, str]) -> Iterator[Entry]:
        seen: set[str] = set()
        received = 0
        while True:
            with self._asked("list its series"):
                page = self._client.search_for_series(
                    search_filters=dict(search), fields=[COUNT], limit=PAGE, offset=received
                )
            received += len(page)
            fresh = [entry for entry in map(_entry, page) if entry.uid not in seen]
            for entry in fresh:
                seen.add(entry.uid)
                if UID.fullmatch(entry.uid):  # it becomes a folder's name
                    yield entry
            if not fresh:  # not "a short page": servers may cap pages below what was asked for
                return

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        try:
            yield
        except RequestException as error:
            raise PacsError(
                f"The PACS at {self.url} did not {what}: {why(error)}. Check that it runs and that "
                "the address given as --studies is its DICOMweb root. Nothing that was saved is "
                "lost."
            ) from error
        except ODD as error:
            raise PacsError(
                f"The PACS at {self.url} was asked to {what}, but its answer is not DICOM: "
                f"{why(error)}."
            ) from error


UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")


def _entry(found: Mapping[str, Any]) -> Entry:
    """Return a search result; one that is not DICOM has an empty UID."""
    try:
        one = _parsed(found)
        return Entry(
            _text(one, "SeriesInstanceUID"),
            _text(one, "StudyInstanceUID"),
            {word: _text(one, word) for word in TOLD},
            _count(one),
        )
    except ODD:
        return Entry("", "", {})


def _parsed(found: Mapping[str, Any]) -> Dataset:
    """Return a header; what the PACS keeps apart, such as pixels, is empty and not fetched."""
    return Dataset.from_json(dict(found), lambda _uri: None)


def _count(dataset: Dataset) -> int | None:
    value = dataset.get(COUNT)
    return int(value) if value not in (None, "") else None


def _text(dataset: Dataset, word: str) -> str:
    value = dataset.get(word)
    return "UNK" if value is None else str(value)
