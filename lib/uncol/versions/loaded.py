"""A published version, loaded: what serving, scoring and judging share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from uncol.data.annotation import read_annotation
from uncol.data.cases import Case
from uncol.data.grid import Volume
from uncol.data.scan import read_scan
from uncol.inference.one_piece import Structures, structure_names
from uncol.inference.outputs import Segmentation, SegmentSettings, segment
from uncol.inference.summary import Summary, summarize
from uncol.networks.student import Student
from uncol.uncertainty.calibration import Calibration
from uncol.versions.manifest import Manifest
from uncol.versions.metrics import dice_per_label
from uncol.versions.store import ModelStore


@dataclass(frozen=True)
class LoadedStudent:
    """A loaded version. A request keeps its own reference, so a new version never disturbs it.

    Attributes:
        student: on `device`, in evaluation mode.
        manifest: how it was made.
        device: where it computes.
        calibration: how far its probabilities can be believed; neutral until they are calibrated.
    """

    student: Student
    manifest: Manifest
    device: torch.device
    calibration: Calibration = field(default_factory=Calibration)

    def with_one_piece(self, structures: Structures) -> LoadedStudent:
        """Return a copy that keeps other structures in one piece."""
        return replace(self, manifest=self.manifest.model_copy(update={"one_piece": structures}))

    def segment(self, scan: Volume) -> Segmentation:
        """Segment a scan as this version was trained to."""
        made = self.manifest
        how = SegmentSettings(made.space, made.modality, made.window, made.labels, made.one_piece)
        return segment(self.student, scan, how, device=self.device, calibration=self.calibration)

    def summary(self, result: Segmentation) -> Summary:
        """Return what clients get with an answer."""
        labels = self.manifest.labels
        return summarize(
            result,
            labels,
            self.calibration,
            version=self.manifest.version,
            one_piece=structure_names(self.manifest.one_piece, labels),
        )


def judge(
    published: LoadedStudent, cases: Sequence[Case], *, released: bool
) -> dict[str, dict[str, float]]:
    """Return Dice by case and label, in the scans' own grids, through the serving code.

    Args:
        published: the version, or a candidate.
        cases: annotated cases.
        released: 0 for a label where either mask is empty (difference 9).

    Raises:
        ScanError, LabelError: a case cannot be read.
    """
    labels = published.manifest.labels
    by_case = {}
    for case in cases:
        scan = read_scan(case.image, case=case.name)
        truth = read_annotation(case, scan.grid, labels)
        label = published.segment(scan).label
        by_case[case.name] = dice_per_label(label, truth, labels, released=released)
    return by_case


def load_version(store: ModelStore, version: int, device: torch.device) -> LoadedStudent:
    """Load a version with its latest calibration.

    Raises:
        WeightsError: its files are missing or damaged.
    """
    student, manifest = store.load(version)
    calibration = read_calibration(store, version)
    return LoadedStudent(student.to(device), manifest, device, calibration)


def read_calibration(store: ModelStore, version: int) -> Calibration:
    """Return a version's calibration; the neutral one before it was calibrated."""
    try:
        text = store.folder.notes(version).calibration.read_text()
    except FileNotFoundError:
        return Calibration()
    return Calibration.model_validate_json(text)
