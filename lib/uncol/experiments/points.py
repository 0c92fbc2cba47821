"""Points of an experiment: read from JSON lines, compared in pairs, drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from uncol.types import Array

Point = dict[str, Any]


def read_points(path: Path) -> list[Point]:
    """Return the points of a file; a line that a kill cut short is left out."""
    points = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            points.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return points


def points_like(path: Path, wanted: Point) -> list[Point]:
    """Return the points of a file that have all of these values."""
    pairs = wanted.items()
    return [one for one in read_points(path) if all(one.get(key) == value for key, value in pairs)]


def gap_text(gaps: Array) -> str:
    """Return the mean of paired differences `(n,)` and its 95 % t interval; '' if n is under 2."""
    if len(gaps) < 2:
        return ""
    if not gaps.any():
        return "0"
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return f"{gaps.mean():+.4f} ({gaps.mean() - half:+.4f} to {gaps.mean() + half:+.4f})"


def dice_curve(points: Sequence[Point], count: str) -> tuple[list[int], Array, Array]:
    """Return Dice along a field: its values, and mean and standard deviation over their points.

    Args:
        points: of one strategy or method.
        count: the field, such as the count of labeled cases.
    """
    counts = sorted({point[count] for point in points})
    rows = [[p["dice"] for p in points if p[count] == c] for c in counts]
    mean, spread = (np.array([f(row) for row in rows]) for f in (np.mean, np.std))
    return counts, mean, spread


@contextmanager
def drawn(path: Path, xlabel: str) -> Iterator[Any]:
    """Yield axes for Dice against something; written with a legend at the end."""
    import matplotlib  # noqa: PLC0415 - slow import, only here

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    yield axes
    axes.set(xlabel=xlabel, ylabel="mean Dice on unseen cases")
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
