"""What the server itself knows of the scans of a PACS; no client writes it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydicom.dataset import Dataset

from uncol.dicom.series import Series
from uncol.dicom.web import UID

logger = logging.getLogger(__name__)

# what earlier versions words of a scan and its label among the notes that clients may write
SCAN_WORDS = ("unusable", "label_refused", "segmentations", "results")
IDS = ("SeriesInstanceUID", "StudyInstanceUID")
LABEL_WORDS = ("pacs", "SeriesInstanceUID", "listed")


class StoredResult(BaseModel):
    """A student's result in the PACS.

    Attributes:
        series: its SeriesInstanceUID.
        instance: its SOPInstanceUID.
        sop_class: its SOPClassUID.
    """

    model_config = ConfigDict(frozen=True)

    series: str
    instance: str
    sop_class: str


class LabelState(BaseModel):
    """Where a submitted label is.

    Attributes:
        pacs: whether the PACS has it, or it waits to be sent.
        series: its SeriesInstanceUID there; empty while it waits.
        listed: whether the PACS has listed it since: what was listed and is no more was deleted.
    """

    model_config = ConfigDict(frozen=True)

    pacs: Literal["waiting", "stored"]
    series: str = ""
    listed: bool = False


class ScanState(BaseModel):
    """A scan.

    Attributes:
        study_uid: its StudyInstanceUID.
        tags: what the PACS lists of it.
        grown: how often it has grown after it was fetched.
        count: number of its instances, as listed or as fetched; None if not known.
        unusable: why it cannot be used; empty if it can.
        label_refused: why the latest segmentation is not its label; empty if it is.
        segmentations: SeriesInstanceUIDs of its segmentations, as they arrived.
        results: the student's results by kind.
        label: where its submitted label is; None if it has none.
    """

    model_config = ConfigDict(frozen=True)

    study_uid: str
    tags: dict[str, str] = {}
    grown: int = 0
    count: int | None = None
    unusable: str = ""
    label_refused: str = ""
    segmentations: tuple[str, ...] = ()
    results: dict[str, StoredResult] = {}
    label: LabelState | None = None

    def told(self, uid: str) -> dict[str, Any]:
        """Return what clients see of a scan."""
        seen: dict[str, Any] = {**self.tags, "SeriesInstanceUID": uid}
        seen["StudyInstanceUID"] = self.study_uid
        seen |= {word: value for word in SCAN_WORDS if (value := getattr(self, word))}
        if self.segmentations:
            seen["segmentations"] = list(self.segmentations)
        if self.results:
            seen["results"] = {kind: one.model_dump() for kind, one in self.results.items()}
        return seen

    def told_of_label(self) -> dict[str, Any]:
        """Return what clients see of its submitted label."""
        if self.label is None:
            return {}
        seen: dict[str, Any] = {"pacs": self.label.pacs, "listed": self.label.listed}
        return {**seen, **({"SeriesInstanceUID": self.label.series} if self.label.series else {})}


def from_notes(uid: str, image: dict[str, Any], label: dict[str, Any] | None) -> ScanState | None:
    """Take over what an earlier version kept among a scan's notes; it is taken out of them.

    What is not of its right kind is dropped: clients could write it.

    Args:
        uid: the scan's SeriesInstanceUID.
        image: its notes.
        label: the notes of its submitted label, if it has one.

    Returns:
        The state; None if the notes hold none.
    """
    if "StudyInstanceUID" not in image:
        return None
    study, _ = image.pop("StudyInstanceUID"), image.pop("SeriesInstanceUID", None)
    words = _taken(image, SCAN_WORDS)
    tags = _taken(image, [word for word in image if word[:1].isupper()])
    words["results"] = _results(uid, words.get("results"))
    words["label"] = _label(_taken(label or {}, LABEL_WORDS))
    state = ScanState(
        study_uid=study if _is_uid(study) else "",
        tags={word: value for word, value in tags.items() if isinstance(value, str)},
    )
    return _with(state, uid, {word: value for word, value in words.items() if value})


def _taken(notes: dict[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """Take words out of notes, and return them."""
    return {word: notes.pop(word) for word in words if word in notes}


def _with(state: ScanState, uid: str, words: Mapping[str, Any]) -> ScanState:
    """Return a state with what is of the right kind."""
    for word, value in words.items():
        try:
            state = ScanState.model_validate({**state.model_dump(), word: value})
        except ValidationError:
            logger.warning("The note %r of scan %s was not one of ours; dropped", word, uid)
    return state


def _results(uid: str, notes: object) -> dict[str, Any]:
    """Return the results that notes name; the scan itself is none."""
    if not isinstance(notes, dict):
        return {}
    return {
        kind: {"series": one["series"], "instance": one["instance"], "sop_class": one["class"]}
        for kind, one in notes.items()
        if isinstance(one, dict)
        and one.get("series") != uid
        and all(_is_uid(one.get(word)) for word in ("series", "instance", "class"))
    }


def _label(notes: Mapping[str, Any]) -> dict[str, Any]:
    if not notes:
        return {}
    series = notes.get("SeriesInstanceUID", "")
    return {
        "pacs": notes.get("pacs"),
        "series": series if _is_uid(series) else "",
        "listed": bool(notes.get("listed")),
    }


def _is_uid(value: object) -> bool:
    return isinstance(value, str) and UID.fullmatch(value) is not None


def origin_of(dataset: Dataset) -> dict[str, Any]:
    """Return who and what made a segmentation, as notes of a label."""
    return {
        "user": str(dataset.get("ContentCreatorName") or ""),
        "made_with": str(dataset.get("ManufacturerModelName") or dataset.get("Manufacturer") or ""),
    }


def result_of(made: Dataset) -> StoredResult:
    """Return how a result that was stored can be found again."""
    return StoredResult(
        series=str(made.SeriesInstanceUID),
        instance=str(made.SOPInstanceUID),
        sop_class=str(made.SOPClassUID),
    )


def reference_to(before: StoredResult, series: Series) -> Dataset:
    """Return a reference to an earlier result (PredecessorDocumentsSequence, PS3.3 C.17.2)."""
    instance = Dataset()
    instance.ReferencedSOPClassUID = before.sop_class
    instance.ReferencedSOPInstanceUID = before.instance
    reference = after_series(before.series, series)
    reference.ReferencedSeriesSequence[0].ReferencedSOPSequence = [instance]
    return reference


def after_series(earlier_series: str, series: Series) -> Dataset:
    """Return a reference to an earlier series of results, of which the instance is not known."""
    of_series, of_study = Dataset(), Dataset()
    of_series.SeriesInstanceUID = earlier_series
    of_study.StudyInstanceUID = series.study_uid
    of_study.ReferencedSeriesSequence = [of_series]
    return of_study
