"""Is a new student served? Only if it is not worse than the served one on held-out cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from uncol.types import Array
from uncol.versions.manifest import Accuracy, AccuracySource, Verdict
from uncol.versions.metrics import mean_of

MEAN_INTERVAL = 0.95
PerCase = Mapping[str, Mapping[str, float]]  # case -> label -> Dice


def accuracy(dice: PerCase, *, source: AccuracySource) -> Accuracy | None:
    """Sum up Dice by case and label; None without any.

    Labels that a case does not have and that were not found there (NaN) do not count.
    """
    per_case = {case: mean_of(labels) for case, labels in dice.items()}
    per_case = {case: value for case, value in per_case.items() if not np.isnan(value)}
    if not per_case:
        return None
    values = list(per_case.values())
    interval = interval_of_mean(values)
    return Accuracy(
        dice=float(np.mean(values)),
        interval=interval and (max(0.0, interval[0]), min(1.0, interval[1])),
        per_label=_per_label(dice, list(per_case)),
        per_case=per_case,
        source=source,
    )


def _per_label(dice: PerCase, cases: Sequence[str]) -> dict[str, float]:
    """Return each label's mean over cases, of labels that occur."""
    names = dict.fromkeys(name for labels in dice.values() for name in labels)
    columns = {name: [dice[case].get(name, np.nan) for case in cases] for name in names}
    return {
        name: float(np.nanmean(column))
        for name, column in columns.items()
        if not np.isnan(column).all()
    }


def compare(candidate: PerCase, reference: PerCase, version: int) -> Verdict:
    """Compare a candidate with the served version on the same held-out cases.

    The test: the mean over cases of the paired difference in Dice (mean over labels) must not be
    below zero. It has no margin, because margins add up over rounds. With few cases it refuses
    about half of the students that are merely as good, which costs nothing: the one served is as
    good, and the labels count in the next round.

    Args:
        candidate: Dice of the new student by case and label.
        reference: the same of the served one.
        version: the served version's number.
    """
    means = {
        case: (mean_of(candidate[case]), mean_of(reference[case]))
        for case in candidate.keys() & reference.keys()
    }
    pairs = np.array([pair for pair in means.values() if not np.isnan(pair).any()])
    if not len(pairs):
        return Verdict(
            published=True,
            reason=f"Published without a comparison with version {version}: no case is held out.",
            reference=version,
        )
    new, old = pairs[:, 0], pairs[:, 1]
    difference = float(np.mean(new - old))
    published = difference >= 0
    figures = (
        f"mean Dice {new.mean():.3f} against {old.mean():.3f} of version {version} on "
        f"{len(pairs)} held-out case{'s' if len(pairs) > 1 else ''}"
    )
    reason = (
        f"Published: {figures}."
        if published
        else f"Not published, version {version} stays: {figures}. All labels are kept and count in "
        "the next round; label more cases, or look at the labels in doubt, and train again."
    )
    return Verdict(
        published=published,
        reason=reason,
        reference=version,
        cases=len(pairs),
        difference=difference,
        interval=interval_of_mean(new - old),
    )


def interval_of_mean(values: Sequence[float] | Array) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean after Student; None for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    reach = float(stats.t.ppf((1 + MEAN_INTERVAL) / 2, count - 1) * stats.sem(values))
    mean = float(np.mean(values))
    return mean - reach, mean + reach
