"""How true uncertainty maps and quality estimates are, with bootstrap intervals over cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from uncol.types import Array
from uncol.uncertainty.quality import risk_coverage

BINS = 1024  # of uncertainty; AUROC by bins differs from the exact one in the fourth place
ECE_BINS = 15
RESAMPLES = 1000
BOOTSTRAP_INTERVAL = 95  # per cent


@dataclass(frozen=True)
class Counts:
    """A case's voxels, counted by uncertainty and by confidence.

    Attributes:
        right: `(1024,)` right voxels by uncertainty.
        wrong: `(1024,)` wrong voxels by uncertainty.
        claims: `(15, 3)`, per confidence bin: voxels, summed confidence, right voxels.
    """

    right: Array
    wrong: Array
    claims: Array


@dataclass(frozen=True)
class Measured:
    """A figure with its 95 % bootstrap interval over cases."""

    value: float
    low: float
    high: float


def count(uncertainty: Array, confidence: Array, wrong: Array) -> Counts:
    """Count a case's voxels.

    Args:
        uncertainty: `(n,)`, in [0, 1].
        confidence: `(n,)`, claimed probability of being right.
        wrong: `(n,)` bool.
    """
    place = np.minimum((uncertainty * BINS).astype(int), BINS - 1)
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    return Counts(
        np.bincount(place[~wrong], minlength=BINS),
        np.bincount(place[wrong], minlength=BINS),
        np.stack(
            [
                np.bincount(bins, weights, minlength=ECE_BINS)
                for weights in (np.ones(len(bins)), confidence, ~wrong)
            ],
            axis=1,
        ),
    )


def auroc(cases: Sequence[Counts]) -> float:
    """Return the chance that a wrong voxel is more uncertain than a right one."""
    right, wrong = sum(case.right for case in cases), sum(case.wrong for case in cases)
    below = np.cumsum(right) - right
    pairs = float(np.sum(right)) * float(np.sum(wrong))
    return float((wrong * (below + right / 2)).sum() / pairs) if pairs else float("nan")


def ece(cases: Sequence[Counts]) -> float:
    """Return the expected calibration error: mean |confidence - accuracy| over 15 bins."""
    claims = np.sum([case.claims for case in cases], axis=0)
    total = claims[:, 0].sum()
    return float(np.abs(claims[:, 1] - claims[:, 2]).sum() / total) if total else float("nan")


def spearman(estimates: Array, dice: Array) -> float:
    """Return the rank correlation of estimated and true Dice; NaN where one is the same for all."""
    if np.ptp(estimates) == 0 or np.ptp(dice) == 0:
        return float("nan")
    return float(stats.spearmanr(estimates, dice).statistic)


def coverage(intervals: Array, dice: Array) -> float:
    """Return the share of cases whose Dice lies in its interval `(n, 2)`."""
    return float(((intervals[:, 0] <= dice) & (dice <= intervals[:, 1])).mean())


def excess_risk(estimates: Array, dice: Array) -> float:
    """Return e-AURC: area under risk-coverage above that of a perfect order."""
    return float((risk_coverage(estimates, dice) - risk_coverage(dice, dice)).mean())


def bootstrap(figure: Callable[[Array], float], cases: int, *, seed: int = 0) -> Measured:
    """Measure a figure and its 95 % interval.

    Args:
        figure: the figure of chosen cases, given as indices `(n,)`.
        cases: how many there are.
        seed: of the resampling.
    """
    draw = np.random.default_rng(seed)
    values = [figure(draw.integers(0, cases, cases)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(
        values, [(100 - BOOTSTRAP_INTERVAL) / 2, (100 + BOOTSTRAP_INTERVAL) / 2]
    )
    return Measured(figure(np.arange(cases)), float(low), float(high))
