"""Points of an experiment: read from JSON lines, compared in pairs."""

from __future__ import annotations

import json
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


def gap_text(gaps: Array) -> str:
    """Return the mean of paired differences `(n,)` with its 95 % t interval; '' for under two."""
    if len(gaps) < 2:
        return ""
    if not gaps.any():
        return "0"
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return f"{gaps.mean():+.4f} ({gaps.mean() - half:+.4f} to {gaps.mean() + half:+.4f})"
