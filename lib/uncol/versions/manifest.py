"""How a version was made: the record beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from operator import not_
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from uncol.data.frame import Space
from uncol.inference.one_piece import Structures
from uncol.method.recipe import RECIPES, Recipe
from uncol.networks.spec import StudentSpec

AccuracySource = Literal["held_out", "cross_fit"]


@dataclass(frozen=True)
class Plan:
    """A run's budget.

    Attributes:
        pretrain_steps: steps of stage 1.
        finetune_steps: steps of stage 2.
        labeled_slices: views of the generalist per labeled case.
        unlabeled_slices: views of the generalist per unlabeled case.
        prompt_every: stage-2 steps between two rounds of prompting the generalist.
    """

    pretrain_steps: int
    finetune_steps: int
    labeled_slices: int
    unlabeled_slices: int
    prompt_every: int

    @property
    def steps(self) -> int:
        """Steps of both stages."""
        return self.pretrain_steps + self.finetune_steps


class Options(BaseModel):
    """What a round was asked for besides its settings, and what else decides its result.

    Attributes:
        step_scale: factor on the planned steps.
        labeled_only: train even if no case is unlabeled.
        device: type of the device.
        threads: torch's threads on the CPU; None if not recorded.
        cache_gb: most GiB on disk for the generalist's embeddings, and again for prepared scans.
        teacher_weights: the generalist's file, if it is not the usual one.
    """

    model_config = ConfigDict(frozen=True)

    step_scale: float = 1.0
    labeled_only: bool = False
    device: str = "cpu"
    threads: int | None = None
    cache_gb: int = 50
    teacher_weights: str = ""


class Accuracy(BaseModel):
    """Dice of a version on cases that did not train what was judged.

    Attributes:
        dice: mean over cases of the mean over labels.
        interval: 95 % interval of that mean (Student's t over cases); None for a single case.
        per_label: mean over cases.
        per_case: mean over labels.
        source: `held_out` cases never trained; in `cross_fit`, students trained on three quarters
            of the labels were judged on the rest.
    """

    model_config = ConfigDict(frozen=True)

    dice: float
    interval: tuple[float, float] | None
    per_label: dict[str, float]
    per_case: dict[str, float]
    source: AccuracySource

    @property
    def text(self) -> str:
        """The accuracy in one sentence."""
        count = len(self.per_case)
        cases = "1 case" if count == 1 else f"{count} cases"
        how = (
            f"{cases} held out from training"
            if self.source == "held_out"
            else f"{cases} by cross-validation, students trained on three quarters of the labels"
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
        interval: 95 % interval of it (Student's t over cases); None with fewer than two cases.
    """

    model_config = ConfigDict(frozen=True)

    published: bool
    reason: str
    reference: int | None = None
    cases: int = 0
    difference: float | None = None
    interval: tuple[float, float] | None = None


class Parent(BaseModel):
    """The version that a round went on from.

    Attributes:
        version: its number.
        weights: SHA-256 of its weights file.
    """

    model_config = ConfigDict(frozen=True)

    version: int
    weights: str


class Manifest(BaseModel):
    """How a version was made, and what is needed to run it.

    Files and clients know `generalist` as `teacher`, and `one_piece` as `single`.

    Attributes:
        version: its number, from 1.
        created: UTC time, ISO 8601.
        labels: name to value.
        preset: resolved preset name.
        spec: the student's sizes.
        window: sliding window in working voxels.
        mix_until: share of stage 2 with copy-pasted crops; `release` always pastes.
        axcodes: the working axes.
        spacing_mm: the working voxel size.
        modality: intensity normalization.
        one_piece: label values that predictions keep in one piece, see `inference/one_piece.py`.
        mode: `intended` or `release`.
        generalist: its name.
        seed: seed of the run.
        cases: names by part: `labeled`, `unlabeled`, `held_out`, `left_out`.
        digests: by case that trained or was held out, those of prepared scan and label file.
        options: further options of the round, and what else decides the result.
        accuracy: on held-out cases; None when none are held out.
        gate: how it compared with the version that was served.
        packages: versions of the packages that computed it.
        plan: the budget.
        start: what it began with, in a sentence.
        parent: the version that it went on from; None if it began with random weights.
        idle: whether nobody asked for it, see `training/idle.py`.
    """

    model_config = ConfigDict(frozen=True, serialize_by_alias=True)

    version: int = 0
    created: str
    labels: dict[str, int]
    preset: str
    spec: StudentSpec
    window: tuple[int, int, int]
    mix_until: float = 1.0
    axcodes: str
    spacing_mm: tuple[float, float, float]
    modality: str
    one_piece: Structures = Field(
        default=(),
        validation_alias=AliasChoices("one_piece", "single"),
        serialization_alias="single",
    )
    mode: str
    generalist: str = Field(
        validation_alias=AliasChoices("generalist", "teacher"), serialization_alias="teacher"
    )
    seed: int
    cases: dict[str, list[str]]
    digests: dict[str, tuple[str, str]] = {}
    options: Options = Options()
    accuracy: Accuracy | None = None
    gate: Verdict | None = None
    packages: dict[str, str]
    plan: Plan
    # not written where they say nothing, as in the files of earlier versions
    start: str = Field(default="", exclude_if=not_)
    parent: Parent | None = Field(default=None, exclude_if=not_)
    idle: bool = Field(default=False, exclude_if=not_)

    @property
    def space(self) -> Space:
        """The model's space."""
        return Space(self.axcodes, self.spacing_mm)

    @property
    def label_digests(self) -> dict[str, str]:
        """Digests of the labels that it was made with, by case; held-out ones included."""
        return {name: label for name, (_, label) in self.digests.items() if label}

    @property
    def recipe(self) -> Recipe:
        """The recipe it was trained by."""
        return RECIPES[self.mode].with_mixing(self.mix_until)
