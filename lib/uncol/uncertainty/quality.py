"""From Soft Dice Confidence to an estimate of a case's Dice, with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from uncol.types import Array

FEWEST_CASES = 3
DICE_INTERVAL = 0.9  # share of cases whose Dice lies in the interval
SLOPE, SLOPE_SD = 1.0, 0.5  # prior: Dice rises as much as confidence
NOISE_SD, NOISE_WEIGHT = 0.035, 4.0  # prior deviation from the line, counting as 4 cases
ACCEPT, CHECK = 0.85, 0.70  # estimated Dice from which a case needs a glance, or a check

UNSEEN = 0.632  # weight of out-of-sample figures in Efron's .632 estimate

QualityBand = Literal["accept", "check", "redo"]


def quality_band(estimate: float) -> QualityBand:
    """Return the band of an estimated Dice."""
    return "accept" if estimate >= ACCEPT else "check" if estimate >= CHECK else "redo"


class Line(BaseModel):
    """Dice against confidence: a straight line with the spread around it.

    Attributes:
        center: mean confidence of the cases it was fitted on.
        level: Dice at `center`.
        slope: Dice per unit of confidence.
        spread: standard deviation of Dice from the line.
        cases: how many cases.
        slope_precision: how sure the slope is, 1 / variance in units of `spread`.
    """

    model_config = ConfigDict(frozen=True)

    center: float
    level: float
    slope: float
    spread: float
    cases: int
    slope_precision: float

    def estimate(self, confidence: float) -> float:
        """Return the expected Dice in [0, 1]."""
        return float(np.clip(self.level + self.slope * (confidence - self.center), 0, 1))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return where Dice lies in 90 % of cases, within [0, 1]."""
        off = confidence - self.center
        width = self.spread * np.sqrt(1 + 1 / self.cases + off**2 / self.slope_precision)
        half = width * stats.t.ppf((1 + DICE_INTERVAL) / 2, self.cases - 1 + NOISE_WEIGHT)
        middle = self.level + self.slope * off
        low, high = np.clip([middle - half, middle + half], 0, 1)
        return float(low), float(high)


class Observed(BaseModel):
    """How the cases of one band turned out.

    Attributes:
        cases: calibration cases whose estimate, made without them, fell into the band.
        below: how many of them had a Dice under the band.
    """

    model_config = ConfigDict(frozen=True)

    cases: int
    below: int


class QualityModel(BaseModel):
    """What confidence says about Dice.

    Attributes:
        mean: for the mean over labels.
        labels: one line per label that enough cases had.
        observed: how each band turned out.
    """

    model_config = ConfigDict(frozen=True)

    mean: Line
    labels: dict[str, Line]
    observed: dict[QualityBand, Observed]


def fit_line(confidence: Array, dice: Array) -> Line:
    """Fit a line with a prior: slope near 1, spread near 0.035 (conjugate normal regression).

    With few cases, the prior decides how Dice follows confidence.

    Args:
        confidence: `(n,)`, at least one.
        dice: `(n,)`.
    """
    count, center, level = len(dice), float(confidence.mean()), float(dice.mean())
    x, y = confidence - center, dice - level
    spread = NOISE_SD
    for _ in range(10):  # slope and spread depend on each other; a few rounds settle them
        precision = float(x @ x) + (spread / SLOPE_SD) ** 2
        slope = (float(x @ y) + SLOPE * (spread / SLOPE_SD) ** 2) / precision
        left = float(((y - slope * x) ** 2).sum()) + NOISE_WEIGHT * NOISE_SD**2
        spread = float(np.sqrt(left / (count - 1 + NOISE_WEIGHT)))
    return Line(
        center=center,
        level=level,
        slope=slope,
        spread=spread,
        cases=count,
        slope_precision=precision,
    )


def fit_quality(
    confidence: Mapping[str, Sequence[float]],
    dice: Mapping[str, Sequence[float]],
    own: Mapping[str, Sequence[float]],
    learned: tuple[Mapping[str, Sequence[float]], Mapping[str, Sequence[float]]] | None = None,
) -> QualityModel | None:
    """Fit all lines.

    Slope, level and spread come from the judged cases; each line is then centred on the mean
    confidence of the student it is for, which may be surer of itself than the judged ones.

    Args:
        confidence: Soft Dice Confidence by label, one value per judged case; NaN where the label
            was not found.
        dice: true Dice, likewise; NaN where neither prediction nor annotation has the label.
        own: confidence of the student that the model is for, on any cases it did not learn from.
        learned: confidence and Dice of that student on the cases it learned from, if others were
            judged in its place; level and spread are then the .632 estimates.

    Returns:
        The model, or None with fewer than three cases.
    """
    means = _mean_pairs(confidence, dice)
    if len(means[0]) < FEWEST_CASES:
        return None
    own_means = _means(np.array([own[name] for name in dice], dtype=float))
    in_sample = None if learned is None else _line_or_none(*_mean_pairs(*learned))
    lines = {}
    for name in dice:
        pairs = _known(confidence[name], dice[name])
        if len(pairs[0]) >= FEWEST_CASES:
            seen = None
            if learned is not None:
                seen = _line_or_none(*_known(learned[0][name], learned[1][name]))
            lines[name] = _for_student(fit_line(*pairs), np.array(own[name], dtype=float), seen)
    return QualityModel(
        mean=_for_student(fit_line(*means), own_means, in_sample),
        labels=lines,
        observed=_observed(*means),
    )


def _line_or_none(confidence: Array, dice: Array) -> Line | None:
    return fit_line(confidence, dice) if len(dice) else None


def _for_student(line: Line, own: Array, in_sample: Line | None) -> Line:
    """Return a line, fitted on stand-in students, adjusted to the student itself."""
    known = own[np.isfinite(own)]
    changes = {"center": float(known.mean())} if len(known) else {}
    if in_sample is not None:
        changes["level"] = UNSEEN * line.level + (1 - UNSEEN) * in_sample.level
        variance = UNSEEN * line.spread**2 + (1 - UNSEEN) * in_sample.spread**2
        changes["spread"] = float(np.sqrt(variance))
    return line.model_copy(update=changes)


def _known(confidence: Sequence[float], dice: Sequence[float]) -> tuple[Array, Array]:
    """Return the pairs `(n,)`, `(n,)` in which both values are known."""
    x, y = np.array(confidence, dtype=float), np.array(dice, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def _mean_pairs(
    confidence: Mapping[str, Sequence[float]], dice: Mapping[str, Sequence[float]]
) -> tuple[Array, Array]:
    """Return mean confidence and mean Dice over the labels found, one pair per case."""
    x = np.array([confidence[name] for name in dice], dtype=float)
    y = np.array([dice[name] for name in dice], dtype=float)
    return _known(_means(x).tolist(), _means(np.where(np.isfinite(x), y, np.nan)).tolist())


def _means(rows: Array) -> Array:
    """Return column means `(n,)` over known values; NaN where there is none."""
    known = np.isfinite(rows)
    total = np.where(known, rows, 0).sum(axis=0)
    return np.asarray(np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan))


def risk_coverage(estimate: Array, dice: Array) -> Array:
    """Return the mean 1 - Dice of the cases kept, best estimate first (`(n,)`: 1 case to all)."""
    order = np.argsort(-estimate, kind="stable")
    risk: Array = np.cumsum(1 - dice[order]) / np.arange(1, len(dice) + 1)
    return risk


def _observed(confidence: Array, dice: Array) -> dict[QualityBand, Observed]:
    """Judge each case by a line fitted on the others."""
    floors: dict[QualityBand, float] = {"accept": ACCEPT, "check": CHECK, "redo": 0.0}
    cases = dict.fromkeys(floors, 0)
    below = dict.fromkeys(floors, 0)
    for left_out in range(len(dice)):
        others = np.arange(len(dice)) != left_out
        band = quality_band(
            fit_line(confidence[others], dice[others]).estimate(confidence[left_out])
        )
        cases[band] += 1
        below[band] += int(dice[left_out] < floors[band])
    return {band: Observed(cases=cases[band], below=below[band]) for band in floors}
