"""How a version was made: the record beside its weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from uncol.data.frame import Space
from uncol.inference.pieces import Structures
from uncol.networks.student import StudentSpec


class Manifest(BaseModel):
    """How a version was made, and what is needed to run it.

    Attributes:
        version: its number, from 1.
        created: UTC time, ISO 8601.
        labels: name to value.
        preset: resolved preset name.
        spec: the student's sizes, as fields of `StudentSpec`.
        window: sliding window in working voxels.
        mix_until: share of stage 2 with copy-pasted crops; `release` always pastes.
        axcodes: the working axes.
        spacing_mm: the working voxel size.
        modality: intensity normalization.
        single: label values that are one piece in all annotated scans, see `inference/pieces.py`.
        mode: `intended` or `release`.
        teacher: the generalized teacher's name.
        seed: seed of the run.
        cases: names by part: `labeled`, `unlabeled`, `held_out`, `left_out`.
        digests: by case that was trained on or held out, of its prepared scan and its label file.
        options: further options of the round, and what else decides the result.
        accuracy: on held-out cases; None when none are held out.
        gate: how it compared with the version that was served.
        packages: versions of what computed it.
        plan: the budget.
    """

    model_config = ConfigDict(frozen=True)

    version: int = 0
    created: str
    labels: dict[str, int]
    preset: str
    spec: dict[str, Any]
    window: tuple[int, int, int]
    mix_until: float = 1.0
    axcodes: str
    spacing_mm: tuple[float, float, float]
    modality: str
    single: Structures = ()
    mode: str
    teacher: str
    seed: int
    cases: dict[str, list[str]]
    digests: dict[str, tuple[str, str]] = {}
    options: dict[str, Any] = {}
    accuracy: Accuracy | None = None
    gate: Verdict | None = None
    packages: dict[str, str]
    plan: dict[str, int]

    @property
    def space(self) -> Space:
        """The model's space."""
        return Space(self.axcodes, self.spacing_mm)


def spec_to(spec: StudentSpec) -> dict[str, Any]:
    """Return a spec as plain values."""
    return asdict(spec)


def spec_from(values: dict[str, Any]) -> StudentSpec:
    """Return a spec from plain values, lists made tuples again."""
    strides = tuple((int(i), int(j), int(k)) for i, j, k in values["strides"])
    channels = tuple(int(c) for c in values["channels"])
    return StudentSpec(**{**values, "channels": channels, "strides": strides})


Source = Literal["held_out", "cross_fit"]


class Accuracy(BaseModel):
    """Dice of a version on cases that did not train what was judged.

    Attributes:
        dice: mean over cases of the mean over labels.
        interval: 95 % of that mean (Student's t over cases); None for a single case.
        per_label: mean over cases.
        per_case: mean over labels.
        source: `held_out` cases never trained; in `cross_fit` students of three quarters of the
            labels were judged on the rest.
    """

    model_config = ConfigDict(frozen=True)

    dice: float
    interval: tuple[float, float] | None
    per_label: dict[str, float]
    per_case: dict[str, float]
    source: Source

    @property
    def text(self) -> str:
        """Say it in a line."""
        count = len(self.per_case)
        cases = "1 case" if count == 1 else f"{count} cases"
        how = (
            f"{cases} held out from training"
            if self.source == "held_out"
            else f"cross-validation over {cases}, by students of three quarters of the labels"
        )
        if self.interval is None:
            return f"Mean Dice {self.dice:.3f} on {how}."
        low, high = self.interval
        return f"Mean Dice {self.dice:.3f} (95 % interval {low:.3f} to {high:.3f}) on {how}."


class Verdict(BaseModel):
    """What the gate decided.

    Attributes:
        published: whether the candidate is served.
        reason: the decision and its figures, for the annotator.
        reference: the version that was served, or None before the first.
        cases: held-out cases on which both were judged.
        difference: mean paired difference in Dice, candidate minus reference.
        interval: 95 % of it (Student's t over cases); None with fewer than two cases.
    """

    model_config = ConfigDict(frozen=True)

    published: bool
    reason: str
    reference: int | None = None
    cases: int = 0
    difference: float | None = None
    interval: tuple[float, float] | None = None
