"""`uncol benchmark ssl`: does the student learn more from few labels than the field's methods do?

A run trains one method on one budget of labels with one seed and judges the student once, alone and
as it would be served, on cases that neither train nor choose anything. No checkpoint is selected:
what the method deploys after the last step counts (the averaged student; for the released code,
whose average stands still in stage 2, the student itself).
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from scipy.stats import trim_mean

from uncol.data.scan import read_grid, read_label, read_scan
from uncol.demo.bar import progress_bar
from uncol.experiments.comparison import Comparison, Training, begin_training, header
from uncol.experiments.minutes import Fitting, fitting_plan
from uncol.experiments.points import Point, points_like
from uncol.experiments.pool import LabeledPool
from uncol.experiments.ssl_report import (
    BASELINE_METHOD,
    METRICS,
    OTHERS,
    mean_of_known,
    plot,
    table,
)
from uncol.storage.files import append_line
from uncol.training.fit import train
from uncol.training.reporter import Reporter, Step
from uncol.types import Array
from uncol.versions.loaded import LoadedStudent
from uncol.versions.metrics import scores

TRIMMED = 0.05  # share of the fastest and of the slowest steps that the mean time leaves out


def compare(comparison: Comparison, console: Console) -> list[Point]:
    """Run what is not in the file yet, write lines and plot, print a table; returns all points.

    Raises:
        RequestError: it cannot be compared.
    """
    comparison.check()
    console.print(header(comparison))
    trainings = list(comparison.trainings())
    with progress_bar(console) as progress:
        task = progress.add_task("comparing", total=len(trainings))
        with tempfile.TemporaryDirectory() as shared:
            for training in trainings:
                progress.update(task, description=str(training))
                if not kept(comparison, training):
                    point = _train(comparison, training, Path(shared))
                    append_line(comparison.out, json.dumps(point))
                progress.advance(task)
    points = [point for training in trainings for point in kept(comparison, training)[:1]]
    points += list(_of_others(comparison))
    plot(points, comparison.out.with_suffix(".png"))
    console.print(table(points, "The students themselves", baseline=comparison.baseline))
    served = [{**point, **point["served"]} for point in points if "served" in point]
    if any(point["single"] for point in served):  # older lines have no such figures
        title = "As served: single structures without stray pieces"
        console.print(table(served, title, baseline=comparison.baseline))
    return points


def kept(comparison: Comparison, training: Training) -> list[Point]:
    """Return a training's lines; the file may grow while other processes share the work."""
    return points_like(comparison.out, comparison.line(training))


def _of_others(comparison: Comparison) -> Iterator[Point]:
    """Yield the lines of what is no method, on the same cases for the same minutes."""
    for budget in comparison.budgets:
        for seed in comparison.seeds:
            for minutes in comparison.minutes:
                training = Training(BASELINE_METHOD, budget, seed, minutes)
                for name in OTHERS:
                    line = comparison.line_of_other(training, name)
                    yield from points_like(comparison.out, line)[:1]


def _train(comparison: Comparison, training: Training, shared: Path) -> Point:
    """Train and judge; trainings of fixed steps share what the generalist saw, in a folder."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as own:
        comparison = comparison.in_folder(shared if training.minutes is None else Path(own))
        fitting = Fitting(comparison.plan(training.budget), 0.0)
        if training.minutes is not None:
            fitting = fitting_plan(comparison, training)
        start = time.monotonic()
        begun, test = begin_training(comparison, training, fitting.plan, clock)
        fitted = train(begun, clock)
        fitted.checkpoint.remove()
        seconds = fitting.looked_seconds + time.monotonic() - start
        student = fitted.loaded(comparison.settings.device)
    network = judge(comparison.pool, student.with_one_piece(()), test)
    one_piece = fitted.manifest.one_piece
    served = judge(comparison.pool, student, test) if one_piece else network
    plan = fitted.manifest.plan
    return {
        **comparison.line(training),
        **network,
        "single": one_piece,
        "served": served,
        "seconds": round(seconds, 1),
        "step_seconds": clock.mean(),
        "planned_steps": [plan.pretrain_steps, plan.finetune_steps],
    }


def judge(pool: LabeledPool, published: LoadedStudent, test: Sequence[str]) -> Point:
    """Return all metrics as means by label (HD95 and ASD in mm), through the serving code.

    Empty masks count as docs/method.md section 5 says, whatever the method's own mode does.
    """
    return judge_labels(
        pool, lambda file: published.segment(read_scan(pool.images / file)).label, test
    )


def judge_labels(pool: LabeledPool, label_of: Callable[[str], Array], test: Sequence[str]) -> Point:
    """Return the same of labels `(I, J, K)` in the scans' grids, whoever made them."""
    by_case = {}
    for file in test:
        grid = read_grid(pool.images / file, case=file)
        label, truth = label_of(file), read_label(pool.truth / file).array
        by_case[file] = {
            name: vars(scores(label == v, truth == v, grid.spacing_mm, released=False))
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
