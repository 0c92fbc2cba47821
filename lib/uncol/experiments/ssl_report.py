"""The points of `uncol benchmark ssl` as a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from uncol.experiments.methods import METHODS
from uncol.experiments.points import Point, dice_curve, drawn, gap_text
from uncol.types import Array

BASELINE_METHOD = "supervised"
OTHERS = ("atlas", "nnunet")  # written by the scripts of these names in benchmarks/
METRICS = ("dice", "hd95_mm", "asd_mm")


def table(points: Sequence[Point], title: str, *, baseline: str = BASELINE_METHOD) -> Table:
    """Return a row per method and budget: means, spread over seeds, paired gaps to a baseline.

    Gaps by seed show how much trainings differ, gaps by case how much cases do.
    """
    what = "unseen cases; mean and deviation over seeds, 95 % t intervals of pairs"
    shown = Table(title=f"{title}: {what}")
    minus = (f"minus {baseline}, by seed", "by case")
    timed = any("minutes" in point for point in points)
    for name in ("labels", *(["minutes"] if timed else []), "method", "Dice", *minus):
        shown.add_column(name, justify="left" if name == "method" else "right")
    for name in ("HD95 mm", "ASD mm", "step s", "run s", "seeds"):
        shown.add_column(name, justify="right")
    for budget, minutes, method in dict.fromkeys(map(_row, _ordered(points))):
        rows = _by_seed(points, (budget, minutes, method))
        base = _by_seed(points, (budget, minutes, baseline)) if method != baseline else {}
        limit = [f"{minutes:g}"] if timed else []
        shown.add_row(str(budget), *limit, method, *_cells(rows, base))
    return shown


def _row(point: Point) -> tuple[int, float, str]:
    """Return the budget, minutes and method of a point; 0 minutes if its steps were fixed."""
    return point["budget"], point.get("minutes") or 0, point["method"]


def _by_seed(points: Sequence[Point], row: tuple[int, float, str]) -> dict[int, Point]:
    return {point["seed"]: point for point in points if _row(point) == row}


def _cells(rows: Mapping[int, Point], base: Mapping[int, Point]) -> list[str]:
    """Return the cells of a row after its method."""
    dice = np.array([point["dice"] for point in rows.values()])
    spread = f" ± {dice.std(ddof=1):.3f}" if len(dice) > 1 else ""
    shared = sorted(rows.keys() & base.keys())
    gaps = np.array([rows[seed]["dice"] - base[seed]["dice"] for seed in shared])
    hd95, asd = (_values(rows.values(), metric) for metric in METRICS[1:])
    return [
        f"{dice.mean():.3f}{spread}",
        gap_text(gaps),
        gap_text(case_gaps([(rows[seed], base[seed]) for seed in shared])),
        _shown(hd95, 2),
        _shown(asd, 2),
        _shown([point["step_seconds"] for point in rows.values()], 3),
        _shown([point["seconds"] for point in rows.values()], 0),
        str(len(rows)),
    ]


def _values(points: Iterable[Point], metric: str) -> list[float | None]:
    return [value for point in points for value in point[metric].values()]


def case_gaps(pairs: Sequence[tuple[Point, Point]]) -> Array:
    """Return differences in Dice, one per case, which is the mean over the seeds that judged it."""
    gaps: dict[str, list[float]] = {}
    for own, other in pairs:
        for case, dice in own["dice_per_case"].items():
            reference = other["dice_per_case"].get(case)
            if dice is not None and reference is not None:
                gaps.setdefault(case, []).append(dice - reference)
    return np.array([np.mean(values) for values in gaps.values()])


def plot(points: Sequence[Point], path: Path) -> None:
    """Draw Dice with bars of one standard deviation over seeds.

    Against labels, with the upper bound; or, if any training had a limit, against its minutes.
    """
    if any(point.get("minutes") for point in points):
        _plot_minutes(points, path)
        return
    with drawn(path, "labeled training scans") as axes:
        for method in dict.fromkeys(point["method"] for point in points):
            own = [point for point in points if point["method"] == method]
            budgets, mean, spread = dice_curve(own, "budget")
            if METHODS[method].everything:
                label = f"{method} ({budgets[0]})"
                axes.axhline(mean[0], linestyle="--", color="gray", label=label)
            else:
                axes.errorbar(budgets, mean, spread, marker="o", capsize=3, label=method)


def _plot_minutes(points: Sequence[Point], path: Path) -> None:
    with drawn(path, "minutes of training") as axes:
        axes.set_xscale("log")
        for budget, method in dict.fromkeys((p["budget"], p["method"]) for p in _ordered(points)):
            own = [p for p in points if (p["budget"], p["method"]) == (budget, method)]
            label = f"{method}, {budget} labels"
            axes.errorbar(*dice_curve(own, "minutes"), marker="o", capsize=3, label=label)


def _ordered(points: Sequence[Point]) -> list[Point]:
    names = [*METHODS, *OTHERS]
    return sorted(points, key=lambda p: (*_row(p)[:2], names.index(p["method"])))


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is defined; None if nothing is, because JSON has no NaN."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else None


def _shown(values: Sequence[float | None], digits: int) -> str:
    mean = mean_of_known(values)
    return "" if mean is None else f"{mean:.{digits}f}"
