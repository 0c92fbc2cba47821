"""Fit how far probabilities can be believed, on cases that did not train the judging student.

Guo et al. (ICML 2017) fit one temperature; one per label is needed here, because a student is
not equally sure of large and small structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.isotonic import IsotonicRegression

from uncol.types import Array
from uncol.uncertainty.quality import UNSEEN, QualityModel

KNOTS = 33  # places of the error curve
ERROR_HIGH, ERROR_MEDIUM = 1 / 3, 0.15  # expected share of wrong voxels from which a band begins
LOG_T = (-1.4, 2.1)  # log temperatures that are tried: 0.25 to 8
TRUST_FROM = 24  # cases at which a label's own temperature counts as much as the common one
FEWEST_VOXELS = 50  # fewest voxels for a label's own temperature, and for a band's error rate


class Band(BaseModel):
    """A review band.

    Attributes:
        threshold: uncertainty in [0, 1] from which a voxel belongs to it.
        error_rate: expected share of wrong voxels in it; None before calibration.
    """

    model_config = ConfigDict(frozen=True)

    threshold: float
    error_rate: float | None = None


class Calibration(BaseModel):
    """What calibration found; the default changes nothing.

    Attributes:
        source: `none`, `cross_fit` (students trained without the case) or `held_out` (cases that
            no student trains on).
        cases: how many cases it was fitted on.
        temperatures: one per class, background first; empty stands for 1 everywhere.
        curve: expected share of wrong voxels at uncertainties 0, 1/32, ... 1.
        high: band `review_high`.
        medium: band `review_medium`.
        quality: from Soft Dice Confidence to Dice, with intervals; None if not fitted.
    """

    model_config = ConfigDict(frozen=True)

    source: str = "none"
    cases: int = 0
    temperatures: tuple[float, ...] = ()
    curve: tuple[float, ...] = ()
    high: Band = Band(threshold=0.5)
    medium: Band = Band(threshold=0.25)
    quality: QualityModel | None = None

    def temperatures_for(self, classes: int) -> tuple[float, ...]:
        """Return one temperature per class."""
        return self.temperatures or (1.0,) * classes

    def expected_error(self, uncertainty: Array) -> Array:
        """Return the expected share of wrong voxels at these uncertainties in [0, 1]."""
        if not self.curve:
            return uncertainty / 2  # two equally probable classes: half are wrong
        places = np.linspace(0, 1, len(self.curve))
        return np.interp(uncertainty, places, self.curve).astype(np.float32)


@dataclass(frozen=True)
class Voxels:
    """Voxels near the predicted foreground of calibration cases.

    Attributes:
        probs: `(n, C)` as predicted.
        truth: `(n,)` true classes.
    """

    probs: Array
    truth: Array

    @property
    def label(self) -> Array:
        """Predicted classes `(n,)`."""
        classes: Array = self.probs.argmax(axis=1)
        return classes


def join(parts: Sequence[Voxels]) -> Voxels:
    """Join the voxels of several cases."""
    return Voxels(
        np.concatenate([p.probs for p in parts]), np.concatenate([p.truth for p in parts])
    )


def tempered(probs: Array, temperatures: Sequence[float]) -> Array:
    """Return `(n, C)` probabilities, tempered per predicted label; see `maps.temper_`."""
    power = 1 / np.asarray(temperatures)[probs.argmax(axis=1)]
    return _softmax(np.log(np.clip(probs, 1e-8, None)) * power[:, None])


def error_rates(voxels: Voxels) -> tuple[float, ...]:
    """Return the share of wrong voxels per predicted class; with few voxels, pulled to the mean."""
    wrong = voxels.label != voxels.truth
    overall = float(wrong.mean())
    rates = []
    for value in range(voxels.probs.shape[1]):
        chosen = voxels.label == value
        rates.append(
            (wrong[chosen].sum() + FEWEST_VOXELS * overall) / (chosen.sum() + FEWEST_VOXELS)
        )
    return tuple(float(rate) for rate in rates)


def match_temperatures(probs: Array, rates: Sequence[float], *, cases: int) -> tuple[float, ...]:
    """Choose one temperature per predicted class so that mean confidence and accuracy agree.

    Confidence matching (Guillory et al., ICCV 2021; Garg et al., ICLR 2022): it needs no truth for
    the voxels, only the error rates to expect, so those may come from other cases. With few
    cases, each label's temperature is pulled towards the one that suits all labels together.

    Args:
        probs: `(n, C)` of the student to calibrate.
        rates: expected share of wrong voxels per predicted class.
        cases: how many cases the rates come from.
    """
    logs, label = np.log(np.clip(probs, 1e-8, None)), probs.argmax(axis=1)
    chosen = [label == value for value in range(probs.shape[1])]
    together = _match(
        logs, sum(mask.mean() * rate for mask, rate in zip(chosen, rates, strict=True))
    )
    trust = cases / (cases + TRUST_FROM)
    temperatures = []
    for mask, rate in zip(chosen, rates, strict=True):
        own = _match(logs[mask], rate) if mask.sum() >= FEWEST_VOXELS else together
        temperatures.append(float(np.exp(trust * own + (1 - trust) * together)))
    return tuple(temperatures)


def _match(logs: Array, rate: float) -> float:
    """Return the log temperature at which the mean top probability is 1 - rate, within bounds."""

    def too_sure(log_t: float) -> float:
        return float(_softmax(logs * np.exp(-log_t)).max(axis=1).mean() - (1 - rate))

    low, high = LOG_T
    if too_sure(low) <= 0:  # never sure enough: as sharp as is allowed
        return low
    if too_sure(high) >= 0:
        return high
    return float(brentq(too_sure, low, high, xtol=1e-3))


def blend(out_of_sample: Sequence[float], in_sample: Sequence[float]) -> tuple[float, ...]:
    """Return Efron's .632 estimate of the error of a student that learned from all cases.

    On new cases, students that left cases out err more than it does. On the cases it learned from,
    it errs less (JASA 78, 1983).
    """
    pairs = zip(out_of_sample, in_sample, strict=True)
    return tuple(UNSEEN * out + (1 - UNSEEN) * own for out, own in pairs)


def error_curve(uncertainty: Array, error: Array) -> tuple[float, ...]:
    """Return the expected share of wrong voxels at 33 uncertainties, never falling.

    Args:
        uncertainty: `(n,)` in [0, 1].
        error: `(n,)`, how probably each voxel is wrong, or whether it is.
    """
    rising = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    rising.fit(uncertainty, error)
    return tuple(float(value) for value in rising.predict(np.linspace(0, 1, KNOTS)))


def find_bands(curve: Sequence[float], uncertainty: Array, error: Array) -> tuple[Band, Band]:
    """Return the bands `review_high` and `review_medium`.

    A band begins where the expected error reaches 1/3, or 15 %; its stated error rate is its
    voxels' mean.
    """
    high = _reaches(curve, ERROR_HIGH)
    medium = min(_reaches(curve, ERROR_MEDIUM), high)
    inside_high = uncertainty >= high
    inside_medium = (uncertainty >= medium) & ~inside_high
    return (
        Band(threshold=high, error_rate=_rate(error, inside_high)),
        Band(threshold=medium, error_rate=_rate(error, inside_medium)),
    )


def _reaches(curve: Sequence[float], error: float) -> float:
    """Return the uncertainty at which the curve reaches an error; a little under 1 if never."""
    values = np.asarray(curve)
    above = np.flatnonzero(values >= error)
    if len(above) == 0:
        return 1 - 0.5 / (KNOTS - 1)
    place = int(above[0])
    if place == 0:
        return 1 / (KNOTS - 1)
    low, high = values[place - 1], values[place]
    return float((place - 1 + (error - low) / (high - low)) / (KNOTS - 1))


def _rate(error: Array, inside: Array) -> float | None:
    return float(error[inside].mean()) if inside.sum() >= FEWEST_VOXELS else None


def _softmax(logits: Array) -> Array:
    shares: Array = softmax(logits, axis=1)
    return shares
