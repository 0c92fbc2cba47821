"""Infer tasks: the student's label, its uncertainty as bands, map, overlay and places."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list

from uncol.data.labels import REVIEW_SEGMENTS
from uncol.data.scan import read_scan, write_volume
from uncol.inference.outputs import Segmentation, bands, overlay
from uncol.inference.summary import Summary
from uncol.tasks.device import device_of
from uncol.tasks.first_label import FirstLabel
from uncol.tasks.markups import markups
from uncol.tasks.priority import FOREGROUND, Turns
from uncol.tasks.requests import InferWork
from uncol.tasks.results import new_file, write_json_result, write_result
from uncol.tasks.served import ServedStudent
from uncol.types import Array
from uncol.uncertainty.calibration import Calibration

BAND_VALUES = {name: value for value, name in enumerate(REVIEW_SEGMENTS, start=1)}


class StudentParams(dict[str, Any]):
    """What goes to the client beside the file.

    Attributes:
        map_file: for the app, the file of the uncertainty map if it is to be kept. It is no entry,
            because clients must not see where the server keeps its files.
    """

    map_file: Path | None = None


@dataclass(frozen=True)
class StudentAnswer:
    """What a student task found, before it is written.

    Attributes:
        segmentation: the student's answer.
        calibration: what its bands go by.
        summary: what the client learns about it.
        params: what goes to the client beside the file.
    """

    segmentation: Segmentation
    calibration: Calibration
    summary: Summary
    params: StudentParams


class StudentTask(InferTask):  # type: ignore[misc]
    """What all tasks of the served student share: one pass, one at a time."""

    _turns = Turns()  # shared by all these tasks

    def __init__(
        self,
        served: ServedStudent,
        *,
        labels: Mapping[str, int],
        kind: str,
        text: str,
    ) -> None:
        """Make a task.

        Args:
            served: where the current student comes from.
            labels: what values 1...N of the result mean.
            kind: MONAI Label's infer type.
            text: the description that users read.
        """
        super().__init__(
            type=kind,
            labels=dict(labels),
            dimension=3,
            description=text,
            config={"device": device_list()},
        )
        self.served = served

    def is_valid(self) -> bool:
        """Say that the task is offered, also before the first training: then it explains itself."""
        return True

    def answer(self, work: InferWork) -> StudentAnswer:
        """Segment the requested scan.

        Raises:
            RequestError: there is no model yet, or none for the app's labels, or no such device.
            BusyError: too many requests wait already.
            ScanError: the scan cannot be used.
        """
        start = time.time()
        served = self.served.get(str(device_of(work.asked.device)))
        with FOREGROUND.computing(self._turns):
            result = served.segment(read_scan(work.image, case=work.case))
        summary = served.summary(result)
        params = StudentParams(
            label_names=dict(self.labels),
            latencies={"total": round(time.time() - start, 2)},
            uncol=summary.model_dump(mode="json"),
        )
        return StudentAnswer(result, served.calibration, summary, params)


class SegmentTask(StudentTask):
    """`uncol`: the label map, with the uncertainty map as a file if the result is to be kept.

    Before the first training, a label that is carried over from annotated cases.
    """

    def __init__(
        self, served: ServedStudent, *, first: FirstLabel, to_pacs: bool, **options: Any
    ) -> None:
        """Make it; where scans come from a PACS, clients may have the result stored there."""
        super().__init__(served, **options)
        self._first = first
        self._to_pacs = to_pacs

    def config(self) -> dict[str, Any]:
        """Return the options that viewers show."""
        return {**super().config(), **({"to_pacs": False} if self._to_pacs else {})}

    def __call__(self, work: InferWork) -> tuple[Path, dict[str, Any]]:
        """Return the label file and its params."""
        carried = self._carried(work)
        if carried is not None:
            return carried
        answer = self.answer(work)
        result = answer.segmentation
        if work.asked.save_label or work.asked.to_pacs:
            answer.params.map_file = new_file(work.folder, ".nii.gz")
            write_volume(answer.params.map_file, result.uncertainty, result.grid)
        return write_result(result.label, result.grid, list(self.labels), work), answer.params

    def _carried(self, work: InferWork) -> tuple[Path, dict[str, Any]] | None:
        """Return a label that was carried over; None where a student answers, or nothing can."""
        stored = work.asked.save_label or work.asked.to_pacs  # it has no map that could go with it
        if stored or self.served.store.current() is not None:
            return None
        start = time.time()
        with FOREGROUND.computing(self._turns):
            scan = read_scan(work.image, case=work.case)
            label = self._first.of(scan, work.case)
        if label is None:
            return None
        params = {
            "label_names": dict(self.labels),
            "latencies": {"total": round(time.time() - start, 2)},
            "uncol": {"model_version": None, "carried_from": label.sources},
        }
        return write_result(label.label, scan.grid, list(self.labels), work), params


class UncertaintyTask(StudentTask):
    """`uncol_uncertainty`: review bands, or a float map with `{"map": true}`.

    `{"map": "disagreement"}` asks for the disagreement of the student's heads instead.
    """

    def config(self) -> dict[str, Any]:
        """Return the options that Slicer shows."""
        return {**super().config(), "map": False}

    def __call__(self, work: InferWork) -> tuple[Path, dict[str, Any]]:
        """Return the bands or the map, and its params."""
        answer = self.answer(work)
        result = answer.segmentation
        if work.asked.map == "disagreement":
            array = result.disagreement
        elif work.asked.map:
            array = result.uncertainty
        else:
            array = bands(result.uncertainty, answer.calibration)
        return write_result(array, result.grid, list(self.labels), work), answer.params


class OverlayTask(StudentTask):
    """`uncol_overlay`: anatomy with the bands on top, for OHIF."""

    def __call__(self, work: InferWork) -> tuple[Path, dict[str, Any]]:
        """Return anatomy and bands in one label map, and its params."""
        answer = self.answer(work)
        result = answer.segmentation
        count = len(self.labels) - len(BAND_VALUES)
        array = overlay(result.label, result.uncertainty, count, answer.calibration)
        return write_result(array, result.grid, list(self.labels), work), answer.params


class RoisTask(StudentTask):
    """`uncol_rois`: the places worth a look as Slicer Markups ROI JSON."""

    def __call__(self, work: InferWork) -> tuple[Path, dict[str, Any]]:
        """Return a Markups file and its params."""
        answer = self.answer(work)
        return write_json_result(markups(answer.summary.rois), work.folder), answer.params


def student_tasks(
    served: ServedStudent, labels: Mapping[str, int], *, first: FirstLabel, to_pacs: bool
) -> dict[str, InferTask]:
    """Return the student's infer tasks; `uncol` first, which Slicer then runs by itself."""
    segment = functools.partial(SegmentTask, first=first, to_pacs=to_pacs)
    count = len(labels)
    both = {**labels, **{name: count + value for name, value in BAND_VALUES.items()}}
    kinds: dict[str, tuple[Callable[..., InferTask], Mapping[str, int], str, str]] = {
        "uncol": (segment, labels, InferType.SEGMENTATION, "UnCoL student"),
        "uncol_uncertainty": (
            UncertaintyTask,
            BAND_VALUES,
            InferType.SEGMENTATION,
            "Where the student is unsure, as two review bands",
        ),
        "uncol_overlay": (
            OverlayTask,
            both,
            InferType.SEGMENTATION,
            "The student's anatomy with the review bands on top",
        ),
        "uncol_rois": (
            RoisTask,
            {},
            InferType.DETECTION,
            "The places worth a look, as boxes",
        ),
    }
    return {
        name: task(served, labels=values, kind=kind, text=text)
        for name, (task, values, kind, text) in kinds.items()
    }


def as_uint8(mask: Array) -> Array:
    """Return a bool mask as label values 0 and 1."""
    return mask.astype(np.uint8)
