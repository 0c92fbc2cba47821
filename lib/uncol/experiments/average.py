"""`uncol benchmark average`: is the average as good as the student that it averages, at any time?

It makes the pseudo-labels during a run and is what is served at its end. Both are judged as they
would be served at a quarter, half and all of a run, on cases that train nothing and choose nothing.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import nn

from uncol.experiments.comparison import Comparison, Training, begin_training, header
from uncol.experiments.points import Point
from uncol.experiments.ssl import judge, kept
from uncol.networks.student import Student
from uncol.storage.files import append_line
from uncol.training.fit import Begun
from uncol.training.reporter import Reporter
from uncol.versions.loaded import LoadedStudent

SHARES = (0.25, 0.5, 1.0)


def follow(comparison: Comparison, console: Console) -> list[Point]:
    """Run what is not in the file yet, write a line per run and share, print a table.

    Args:
        comparison: its methods, budgets and seeds are all run.
        console: where the table goes.

    Raises:
        RequestError: there are too few cases.
    """
    comparison.check()
    console.print(header(comparison))
    with tempfile.TemporaryDirectory() as folder:
        comparison = comparison.in_folder(Path(folder))
        for training in comparison.trainings():
            if len(_of(comparison, training)) < len(SHARES):
                for point in _points(comparison, training):
                    append_line(comparison.out, json.dumps(point))
    points = [point for one in comparison.trainings() for point in _of(comparison, one)]
    console.print(_table(points))
    return points


def _of(comparison: Comparison, training: Training) -> list[Point]:
    """Return a training's lines, the last one per share."""
    latest = {point["share"]: point for point in kept(comparison, training)}
    return list(latest.values())


def _points(comparison: Comparison, training: Training) -> Iterator[Point]:
    plan = comparison.plan(training.budget)
    begun, test = begin_training(comparison, training, plan, Reporter())
    steps = begun.trainer.plan.steps
    marks = {max(1, round(share * steps)): share for share in SHARES}
    for step in begun.trainer.run():
        if step.number in marks:
            begun.trainer.fit_statistics()
            state = begun.trainer.state
            yield {
                **comparison.line(training),
                "share": marks[step.number],
                "step": step.number,
                "student": judge(comparison.pool, _served(begun, state.student), test)["dice"],
                "average": judge(comparison.pool, _served(begun, state.specialist), test)["dice"],
            }


def _served(begun: Begun, network: nn.Module) -> LoadedStudent:
    """Return a copy of a network as it would be served now."""
    student = copy.deepcopy(network)
    if not isinstance(student, Student):
        raise TypeError(type(student))
    return LoadedStudent(student.eval(), begun.manifest, begun.trainer.device)


def _table(points: list[Point]) -> Table:
    shown = Table(title="As served; mean over seeds, and each seed's difference")
    for name in ("labels", "method", "share of the run", "student", "average", "average - student"):
        shown.add_column(name, justify="left" if name == "method" else "right")
    groups: dict[tuple[int, str, float], list[Point]] = {}
    for point in points:
        groups.setdefault((point["budget"], point["method"], point["share"]), []).append(point)
    for (budget, method, share), rows in groups.items():
        student = np.array([row["student"] for row in rows])
        average = np.array([row["average"] for row in rows])
        gaps = ", ".join(f"{gap:+.3f}" for gap in average - student)
        means = (f"{student.mean():.3f}", f"{average.mean():.3f}")
        shown.add_row(str(budget), method, f"{share:g}", *means, gaps)
    return shown
