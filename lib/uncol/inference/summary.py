"""What a client gets with a segmentation: quality, uncertainty and the places worth a look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from uncol.data.boxes import PlaceMm
from uncol.inference.outputs import LabelFound, Segmentation
from uncol.inference.places import find_places
from uncol.uncertainty.calibration import Band, Calibration
from uncol.uncertainty.quality import Observed, QualityBand, QualityModel, quality_band


class CalibrationNote(BaseModel):
    """How a calibration was made.

    Attributes:
        source: `none`, `cross_fit` or `held_out`.
        cases: how many cases it was fitted on.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    cases: int


class QualityEstimate(BaseModel):
    """The estimated quality of a mask.

    Attributes:
        dice: expected mean Dice over labels, in [0, 1].
        interval: where the true one lies in 90 % of cases; the whole range before calibration.
        calibrated: whether it was compared with annotations.
        band: what a person should do: `accept`, `check` or `redo`.
        observed: how calibration cases of this band turned out.
        per_label: expected Dice; None for a label that was not found.
    """

    model_config = ConfigDict(frozen=True)

    dice: float
    interval: tuple[float, float]
    calibrated: bool
    band: QualityBand
    observed: Observed | None
    per_label: dict[str, float | None]


class UncertaintyNote(BaseModel):
    """How unsure the student is.

    Attributes:
        mean_foreground: mean over the predicted foreground, in [0, 1].
        voxels_high: voxels of the scan in the band `review_high`.
        threshold: uncertainty in [0, 1] from which a voxel belongs to that band.
        bands: both review bands.
        calibration: how the bands were calibrated.
    """

    model_config = ConfigDict(frozen=True)

    mean_foreground: float
    voxels_high: int
    threshold: float
    bands: dict[str, Band]
    calibration: CalibrationNote


class Summary(BaseModel):
    """The object `uncol` of an answer's `params`.

    Attributes:
        model_version: number of the version that answered.
        computed_on: type of the device that computed it.
        quality: how good the mask is.
        uncertainty: how unsure the student is.
        rois: the places worth a look, most expected errors first.
        one_piece: structures of which only one piece was kept, by name.
    """

    model_config = ConfigDict(frozen=True)

    model_version: int
    computed_on: str
    quality: QualityEstimate
    uncertainty: UncertaintyNote
    rois: tuple[PlaceMm, ...]
    one_piece: tuple[str, ...]


def summarize(
    result: Segmentation,
    labels: Mapping[str, int],
    calibration: Calibration,
    *,
    version: int,
    one_piece: Sequence[str] = (),
) -> Summary:
    """Sum up a segmentation for a client.

    Args:
        result: the student's answer.
        labels: name to value.
        calibration: how far it can be believed.
        version: number of the student's version.
        one_piece: structures of which only one piece was kept.
    """
    inside = result.uncertainty[result.label > 0]
    unsure = result.uncertainty >= calibration.high.threshold
    expected = calibration.expected_error(result.uncertainty)
    places = find_places(result.label, expected, result.grid, labels)
    return Summary(
        model_version=version,
        computed_on=result.computed_on,
        quality=estimate_quality(result.by_label, calibration.quality),
        uncertainty=UncertaintyNote(
            mean_foreground=float(inside.mean()) if inside.size else 0.0,
            voxels_high=int(unsure.sum()),
            threshold=calibration.high.threshold,
            bands={"review_high": calibration.high, "review_medium": calibration.medium},
            calibration=CalibrationNote(source=calibration.source, cases=calibration.cases),
        ),
        rois=tuple(place.in_mm(result.grid) for place in places),
        one_piece=tuple(one_piece),
    )


def estimate_quality(
    found: Mapping[str, LabelFound], model: QualityModel | None
) -> QualityEstimate:
    """Estimate Dice from confidence; uncalibrated where there is no model yet."""
    known = {n: one.confidence for n, one in found.items() if not np.isnan(one.confidence)}
    mean = float(np.mean(list(known.values()))) if known else 0.0
    if model is None:
        band = quality_band(mean)
        return QualityEstimate(
            dice=mean,
            interval=(0.0, 1.0),
            calibrated=False,
            # nobody has seen yet how far this estimate can be believed
            band="check" if band == "accept" else band,
            observed=None,
            per_label={name: known.get(name) for name in found},
        )
    estimate, interval = mean, (0.0, 1.0)
    if known:
        # a label that other cases have and this mask lacks has a Dice of 0, or is truly absent
        missed = sum(name not in known for name in model.labels)
        share = len(known) / (len(known) + missed)
        low, high = model.mean.interval(mean)
        estimate, interval = share * model.mean.estimate(mean), (share * low, high)
    band = quality_band(estimate)
    return QualityEstimate(
        dice=estimate,
        interval=interval,
        calibrated=True,
        band=band,
        observed=model.observed[band],
        per_label={name: _label_dice(name, known, model) for name in found},
    )


def _label_dice(name: str, known: Mapping[str, float], model: QualityModel) -> float | None:
    """Return a label's expected Dice; its confidence itself where too few cases had it."""
    if name in known and name in model.labels:
        return model.labels[name].estimate(known[name])
    return known.get(name)
