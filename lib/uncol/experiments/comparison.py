"""What `uncol benchmark ssl` compares, and how a training of it begins."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from uncol.errors import RequestError
from uncol.experiments.methods import METHODS
from uncol.experiments.points import Point
from uncol.experiments.pool import LabeledPool
from uncol.experiments.ssl_report import BASELINE_METHOD
from uncol.generalist.models import NO_GENERALIST
from uncol.packages import report_header
from uncol.round_settings import RoundSettings
from uncol.training.fit import Begun, begin
from uncol.training.plan import make_plan, with_steps
from uncol.training.pool import prepare_pool, read_grids
from uncol.training.presets import PRESETS
from uncol.training.reporter import Reporter
from uncol.training.sizes import choose_sizes
from uncol.versions.manifest import Plan


@dataclass(frozen=True)
class Training:
    """One training of a comparison.

    Attributes:
        method: name of the method.
        budget: number of labeled training scans.
        seed: draws the cases and seeds the training.
        minutes: how long it may take, the generalist's looking included; None for a fixed number of
            steps.
    """

    method: str
    budget: int
    seed: int
    minutes: float | None = None

    def __str__(self) -> str:
        """Return it in words."""
        limit = "" if self.minutes is None else f", {self.minutes:g} minutes"
        return f"seed {self.seed}, {self.budget} labels, {self.method}{limit}"


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        pool: labeled scans.
        methods: names, see `METHODS`.
        budgets: numbers of labeled training scans; the rest of them is unlabeled.
        seeds: each draws its own test, training and labeled cases, and seeds the trainings.
        train: training scans, labeled and unlabeled.
        test: cases that judge.
        steps: of stages 1 and 2; None for what the app would plan for the budget.
        minutes: how long each training may take, one training per value; if empty, the steps hold.
        settings: how to train; mode, generalist and seed are the methods' own.
        out: JSON lines file; runs in it are not computed again.
        baseline: method that the table compares the others with.
    """

    pool: LabeledPool
    methods: tuple[str, ...]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    train: int
    test: int
    steps: tuple[int, int] | None
    settings: RoundSettings
    out: Path
    baseline: str = BASELINE_METHOD
    minutes: tuple[float, ...] = ()

    def check(self) -> None:
        """Refuse what cannot be compared.

        Raises:
            RequestError: a method is unknown, or there are too few cases.
        """
        unknown = [name for name in (*self.methods, self.baseline) if name not in METHODS]
        if unknown:
            raise RequestError(f"No method '{unknown[0]}'; choose of {', '.join(METHODS)}.")
        if not all(0 < limit < math.inf for limit in self.minutes) or (self.minutes and self.steps):
            raise RequestError("Give --minutes above 0, or --steps, not both.")
        if not 1 <= min(self.budgets) <= max(self.budgets) <= self.train:
            raise RequestError(f"Budgets must lie between 1 and --train {self.train}.")
        self._check_cases()

    def _check_cases(self) -> None:
        for seed in self.seeds:
            train, test = self.pool.parts(seed, test=self.test)
            if len(test) < self.test or len(train) < self.train:
                raise RequestError(
                    f"{self.pool.images} holds {len(self.pool.files)} labeled scans; {self.train} "
                    f"to train and {self.test} to judge are needed (seed {seed} draws {len(train)} "
                    f"and {len(test)})."
                )

    @property
    def options(self) -> Point:
        """What all lines of one comparison have in common."""
        # a pool without patients adds no key, so that its older lines still match
        grouped = {"patient": self.pool.patient} if self.pool.patient else {}
        return {
            "data": self.pool.images.parent.name,
            **grouped,
            "labels": list(self.pool.labels),
            "teacher": self.settings.generalist,
            "preset": self.settings.preset,
            "train": self.train,
            "test": self.test,
            "steps": list(self.steps) if self.steps else self.settings.step_scale,
        }

    def in_folder(self, folder: Path) -> Comparison:
        """Return it with all that trainings write in a folder."""
        return replace(self, settings=replace(self.settings, model_dir=folder))

    def line(self, training: Training) -> Point:
        """Return what tells the lines of one training from all others.

        `recipe` is a digest of how this version trains, so that no line of another one is taken.
        """
        preset = PRESETS.get(self.settings.preset, PRESETS)
        recipe = METHODS[training.method].recipe
        made = repr((recipe, preset, self.plan(training.budget)))
        if recipe.probe:  # lines of the others still match
            made += " with a probe"
        run = vars(training)
        if training.minutes is None:  # so that older lines still match
            run = {name: value for name, value in run.items() if name != "minutes"}
        else:
            run = {**run, "steps": "minutes"}
        return {
            **self.options,
            **run,
            "recipe": hashlib.sha256(made.encode()).hexdigest()[:12],
        }

    def line_of_other(self, training: Training, program: str) -> Point:
        """Return what tells the lines of another program from all others, whatever its recipe."""
        own = self.line(training)
        return {
            **{name: value for name, value in own.items() if name != "recipe"},
            "method": program,
        }

    def trainings(self) -> Iterator[Training]:
        """Yield all; `supervised_all` has one budget, all training scans."""
        for seed in self.seeds:
            for name in self.methods:
                for budget in (self.train,) if METHODS[name].everything else self.budgets:
                    for minutes in self.minutes or (None,):
                        yield Training(name, budget, seed, minutes)

    def plan(self, budget: int) -> Plan:
        """Return the budget of steps that all methods share at a budget of labels."""
        gpu = self.settings.device.type == "cuda"
        shared = min(budget, max(self.budgets))  # `supervised_all` trains as long as the longest
        plan = make_plan(shared, self.train - shared, gpu=gpu, scale=self.settings.step_scale)
        if self.steps is None:
            return plan
        return with_steps(plan, *self.steps)


def begin_training(
    comparison: Comparison, training: Training, plan: Plan, reporter: Reporter
) -> tuple[Begun, list[str]]:
    """Begin a training; all of a seed train on scans of the same voxel size and crop.

    Args:
        comparison: what is compared, in a folder of its own.
        training: which one.
        plan: its steps.
        reporter: receives the progress.

    Returns:
        The run, and the files that judge it.
    """
    contestant, scans = METHODS[training.method], comparison.pool
    train_files, test = scans.parts(training.seed, test=comparison.test)
    files = train_files[: comparison.train]
    labeled = files if contestant.everything else files[: training.budget]
    others = files[len(labeled) :] if contestant.unlabeled else []
    settings = replace(
        comparison.settings,
        seed=training.seed,
        mode=contestant.mode,
        generalist=comparison.settings.generalist if contestant.generalist else NO_GENERALIST,
        labeled_only=True,
    )
    pool = scans.pool(labeled, others)
    _, left_out = read_grids(pool)
    shaping, _ = read_grids(scans.pool([], files))
    sizes = choose_sizes(list(shaping.values()), pool.labeled, settings)
    prepared = prepare_pool(pool, sizes, settings, left_out)
    runs, method, recipe = settings.folder.runs, contestant.method, contestant.recipe
    return begin(prepared, plan, method, recipe, settings, reporter, runs), test


def header(comparison: Comparison) -> str:
    """Return what a comparison ran with, a line each."""
    header = report_header(
        data=str(comparison.pool.images),
        seeds=list(comparison.seeds),
        threads=torch.get_num_threads(),
        device=str(comparison.settings.device),
    )
    return "\n".join(f"{name}: {value}" for name, value in header.items())
