"""`uncol benchmark continued`: is a round that goes on as good as one from random weights?

A first round is trained, then labels are added. The next round is trained twice: going on from the
first, in a quarter of the steps, and from random weights. All are judged as they would be served,
on cases that train nothing and choose nothing.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from uncol.errors import RequestError
from uncol.experiments.comparison import Comparison, Training, header
from uncol.experiments.points import Point, gap_text, points_like
from uncol.experiments.ssl import judge
from uncol.experiments.ssl_report import case_gaps
from uncol.storage.files import append_line
from uncol.training.fit import CONTINUED_RATE, NEW_AGAIN, fit
from uncol.training.plan import CONTINUED
from uncol.training.reporter import Reporter
from uncol.training.start import Origin
from uncol.versions.manifest import Parent

BEFORE, AFRESH, CONTINUES = ROUNDS = ("first", "afresh", "continued")
NO_ORIGIN = "this benchmark compares the two"


def play(comparison: Comparison, console: Console) -> list[Point]:
    """Run the seeds that are not in the file yet, write a line per round, print a table.

    Args:
        comparison: of one method, `uncol`, and two budgets: labels of the first round and of the
            next.
        console: where the table goes.

    Raises:
        RequestError: there are too few cases, or not two budgets.
    """
    comparison.check()
    if len(comparison.budgets) != len({BEFORE, CONTINUES}):
        raise RequestError('Name two budgets, of the first round and of the next: "4,8".')
    console.print(header(comparison))
    for seed in comparison.seeds:
        if len(_of(comparison, seed)) < len(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                for point in _points(comparison.in_folder(Path(folder)), seed):
                    append_line(comparison.out, json.dumps(point))
    points = [point for seed in comparison.seeds for point in _of(comparison, seed)]
    console.print(_table(points))
    return points


def _of(comparison: Comparison, seed: int) -> list[Point]:
    """Return a seed's lines, the last one per round."""
    own = points_like(comparison.out, _line(comparison, seed))
    return list({point["round"]: point for point in own}.values())


def _line(comparison: Comparison, seed: int) -> Point:
    before, after = comparison.budgets
    line = comparison.line(Training(comparison.methods[0], after, seed))
    how = repr((line["recipe"], CONTINUED, CONTINUED_RATE, NEW_AGAIN))
    recipe = hashlib.sha256(how.encode()).hexdigest()[:12]
    return {**line, "before": before, "recipe": recipe}


def _points(comparison: Comparison, seed: int) -> Iterator[Point]:
    train, test = comparison.pool.parts(seed, test=comparison.test)
    files = train[: comparison.train]
    before, after = comparison.budgets
    settings = replace(comparison.settings, seed=seed, labeled_only=True)
    origin: Origin | str = NO_ORIGIN
    for name, labeled in ((BEFORE, before), (CONTINUES, after), (AFRESH, after)):
        pool = comparison.pool.pool(files[:labeled], files[labeled:])
        start = time.monotonic()
        fitted = fit(pool, settings, Reporter(), settings.folder.runs, origin)
        seconds = time.monotonic() - start
        fitted.checkpoint.remove()
        gone_on = fitted.manifest.parent is not None
        if gone_on != (name == CONTINUES):
            raise RequestError(f"The round '{name}' is another one: {fitted.manifest.start}")
        origin = NO_ORIGIN
        if name == BEFORE:
            origin = Origin(fitted.student, fitted.manifest, Parent(version=1, weights=""))
        judged = judge(comparison.pool, fitted.loaded(settings.device), test)
        yield {
            **_line(comparison, seed),
            "round": name,
            "steps_done": fitted.manifest.plan.steps,
            "seconds": round(seconds, 1),
            "dice": judged["dice"],
            "dice_per_case": judged["dice_per_case"],
        }


def _table(points: list[Point]) -> Table:
    shown = Table(title="As served; mean over seeds, 95 % t intervals of pairs by case")
    for column in ("round", "labels", "steps", "seconds", "Dice", "minus afresh", "by seed"):
        shown.add_column(column, justify="left" if column == "round" else "right")
    by_round = {name: {p["seed"]: p for p in points if p["round"] == name} for name in ROUNDS}
    for name, rows in by_round.items():
        shown.add_row(name, *_cells(rows, {} if name == AFRESH else by_round[AFRESH]))
    return shown


def _cells(rows: dict[int, Point], fresh: dict[int, Point]) -> list[str]:
    """Return the cells of a round after its name, beside the rounds from random weights."""
    pairs = [(one, fresh[seed]) for seed, one in rows.items() if seed in fresh]
    labels = {one["before" if one["round"] == BEFORE else "budget"] for one in rows.values()}
    return [
        ", ".join(map(str, labels)),
        f"{_mean(rows, 'steps_done'):.0f}",
        f"{_mean(rows, 'seconds'):.0f}",
        f"{_mean(rows, 'dice'):.3f}",
        gap_text(case_gaps(pairs)),
        ", ".join(f"{one['dice'] - other['dice']:+.4f}" for one, other in pairs),
    ]


def _mean(rows: dict[int, Point], field: str) -> float:
    return float(np.mean([one[field] for one in rows.values()]))
