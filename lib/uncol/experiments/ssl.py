"""`uncol benchmark ssl`: does the student learn more from few labels than the field's methods do?

A run trains one method on one budget of labels with one seed and judges the student once, alone and
as it would be served, on cases that neither train nor choose anything. No checkpoint is selected:
what the method deploys after the last step counts (the averaged student; for the released code,
whose average stands still in stage 2, the student itself).
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from scipy.stats import trim_mean

from uncol.data.scan import read_label, read_scan
from uncol.demo.bar import progress_bar
from uncol.errors import RequestError
from uncol.experiments.methods import METHODS
from uncol.experiments.points import Point, points_like
from uncol.experiments.pool import LabeledPool
from uncol.experiments.ssl_report import BASELINE_METHOD, METRICS, mean_of_known, plot, table
from uncol.generalist.models import NO_GENERALIST
from uncol.packages import report_header
from uncol.round_settings import RoundSettings
from uncol.storage.files import append_line
from uncol.training.fit import Begun, begin, train
from uncol.training.plan import make_plan, with_steps
from uncol.training.pool import prepare_pool, read_grids
from uncol.training.presets import PRESETS
from uncol.training.reporter import Reporter, Step
from uncol.training.sizes import choose_sizes
from uncol.versions.loaded import LoadedStudent
from uncol.versions.manifest import Plan
from uncol.versions.metrics import scores

TRIMMED = 0.05  # share of the fastest and of the slowest steps that the mean time leaves out


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

    def check(self) -> None:
        """Refuse what cannot be compared.

        Raises:
            RequestError: a method is unknown, or there are too few cases.
        """
        unknown = [name for name in (*self.methods, self.baseline) if name not in METHODS]
        if unknown:
            raise RequestError(f"No method '{unknown[0]}'; choose of {', '.join(METHODS)}.")
        for seed in self.seeds:
            train, test = self.pool.parts(seed, test=self.test)
            if len(test) < self.test or len(train) < self.train:
                raise RequestError(
                    f"{self.pool.images} holds {len(self.pool.files)} labeled scans; {self.train} "
                    f"to train and {self.test} to judge are needed (seed {seed} draws {len(train)} "
                    f"and {len(test)})."
                )
        if not 1 <= min(self.budgets) <= max(self.budgets) <= self.train:
            raise RequestError(f"Budgets must lie between 1 and --train {self.train}.")

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

    def line(self, method: str, budget: int, seed: int) -> Point:
        """Return what tells the lines of one run from all others.

        `recipe` is a digest of how this version trains, so that no line of another one is taken.
        """
        preset = PRESETS.get(self.settings.preset, PRESETS)
        made = repr((METHODS[method].recipe, preset, self.plan(budget)))
        return {
            "method": method,
            "budget": budget,
            "seed": seed,
            **self.options,
            "recipe": hashlib.sha256(made.encode()).hexdigest()[:12],
        }

    def runs(self) -> Iterator[tuple[str, int, int]]:
        """Yield method, budget and seed; `supervised_all` has one budget, all training scans."""
        for seed in self.seeds:
            for name in self.methods:
                for budget in (self.train,) if METHODS[name].everything else self.budgets:
                    yield name, budget, seed

    def plan(self, budget: int) -> Plan:
        """Return the budget of steps that all methods share at a budget of labels."""
        gpu = self.settings.device.type == "cuda"
        shared = min(budget, max(self.budgets))  # `supervised_all` trains as long as the longest
        plan = make_plan(shared, self.train - shared, gpu=gpu, scale=self.settings.step_scale)
        if self.steps is None:
            return plan
        return with_steps(plan, *self.steps)


def compare(comparison: Comparison, console: Console) -> list[Point]:
    """Run what is not in the file yet, write lines and plot, print a table; returns all points.

    Raises:
        RequestError: it cannot be compared.
    """
    comparison.check()
    console.print(header(comparison))
    runs = list(comparison.runs())
    with (
        progress_bar(console) as progress,
        tempfile.TemporaryDirectory() as folder,
    ):
        task = progress.add_task("comparing", total=len(runs))
        comparison = comparison.in_folder(Path(folder))
        for name, budget, seed in runs:
            progress.update(task, description=f"seed {seed}, {budget} labels, {name}")
            if not kept(comparison, name, budget, seed):
                append_line(comparison.out, json.dumps(_run(comparison, name, budget, seed)))
            progress.advance(task)
    points = [point for run in runs for point in kept(comparison, *run)[:1]]
    plot(points, comparison.out.with_suffix(".png"))
    console.print(table(points, "The students themselves", baseline=comparison.baseline))
    served = [{**point, **point["served"]} for point in points if "served" in point]
    if any(point["single"] for point in served):  # older lines have no such figures
        title = "As served: single structures without stray pieces"
        console.print(table(served, title, baseline=comparison.baseline))
    return points


def kept(comparison: Comparison, name: str, budget: int, seed: int) -> list[Point]:
    """Return a run's lines; the file may grow while other processes share the work."""
    return points_like(comparison.out, comparison.line(name, budget, seed))


def _run(comparison: Comparison, name: str, budget: int, seed: int) -> Point:
    start = time.monotonic()
    clock = Clock()
    begun, test = begin_run(comparison, name, budget, seed, clock)
    fitted = train(begun, clock)
    fitted.checkpoint.remove()
    seconds = time.monotonic() - start
    student = fitted.loaded(comparison.settings.device)
    network = judge(comparison.pool, student.with_one_piece(()), test)
    one_piece = fitted.manifest.one_piece
    served = judge(comparison.pool, student, test) if one_piece else network
    plan = fitted.manifest.plan
    return {
        **comparison.line(name, budget, seed),
        **network,
        "single": one_piece,
        "served": served,
        "seconds": round(seconds, 1),
        "step_seconds": clock.mean(),
        "planned_steps": [plan.pretrain_steps, plan.finetune_steps],
    }


def begin_run(
    comparison: Comparison, name: str, budget: int, seed: int, reporter: Reporter
) -> tuple[Begun, list[str]]:
    """Begin one method's training; all of a seed train on scans of the same voxel size and crop.

    Args:
        comparison: what is compared, in a folder of its own.
        name: the method.
        budget: number of labeled scans.
        seed: draws the cases and seeds the training.
        reporter: receives the progress.

    Returns:
        The run, and the files that judge it.
    """
    contestant, settings, scans = METHODS[name], comparison.settings, comparison.pool
    train_files, test = scans.parts(seed, test=comparison.test)
    files = train_files[: comparison.train]
    labeled = files if contestant.everything else files[:budget]
    others = files[len(labeled) :] if contestant.unlabeled else []
    run = replace(
        settings,
        seed=seed,
        mode=contestant.mode,
        generalist=settings.generalist if contestant.generalist else NO_GENERALIST,
        labeled_only=True,
    )
    pool = scans.pool(labeled, others)
    _, left_out = read_grids(pool)
    shaping, _ = read_grids(scans.pool([], files))
    sizes = choose_sizes(list(shaping.values()), pool.labeled, run)
    prepared, plan = prepare_pool(pool, sizes, run, left_out), comparison.plan(budget)
    method, recipe, runs = contestant.method, contestant.recipe, run.folder.runs
    return begin(prepared, plan, method, recipe, run, reporter, runs), test


def judge(pool: LabeledPool, published: LoadedStudent, test: Sequence[str]) -> Point:
    """Return all metrics as means by label (HD95 and ASD in mm), through the serving code.

    Empty masks count as docs/method.md section 5 says, whatever the method's own mode does.
    """
    by_case = {}
    for file in test:
        scan = read_scan(pool.images / file)
        label, truth = published.segment(scan).label, read_label(pool.truth / file).array
        by_case[file] = {
            name: vars(scores(label == v, truth == v, scan.grid.spacing_mm, released=False))
            for name, v in pool.labels.items()
        }
    per_label = {
        metric: {
            label: mean_of_known([case[label][metric] for case in by_case.values()])
            for label in pool.labels
        }
        for metric in METRICS
    }
    return {
        "dice": mean_of_known(list(per_label["dice"].values())),
        "dice_per_label": per_label["dice"],
        "hd95_mm": per_label["hd95_mm"],
        "asd_mm": per_label["asd_mm"],
        "undefined": sum(
            math.isnan(one["hd95_mm"]) for c in by_case.values() for one in c.values()
        ),
        "dice_per_case": {
            case: mean_of_known([one["dice"] for one in values.values()])
            for case, values in by_case.items()
        },
    }


class Clock(Reporter):
    """Times the steps of stage 2, from the end of one to the end of the next."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._took: list[float] = []

    def step(self, step: Step) -> None:
        """Record the time since the step before."""
        now = time.monotonic()
        if step.stage == 2 and self._last is not None:
            self._took.append(now - self._last)
        self._last = now

    def mean(self) -> float | None:
        """Return the mean seconds per step without the slowest and fastest; None without steps.

        The slowest prompt the generalist; a median would show only mixed steps or only whole ones.
        """
        return round(float(trim_mean(self._took, TRIMMED)), 4) if self._took else None


def header(comparison: Comparison) -> str:
    """Return what a comparison ran with, a line each."""
    header = report_header(
        data=str(comparison.pool.images),
        seeds=list(comparison.seeds),
        threads=torch.get_num_threads(),
        device=str(comparison.settings.device),
    )
    return "\n".join(f"{name}: {value}" for name, value in header.items())
