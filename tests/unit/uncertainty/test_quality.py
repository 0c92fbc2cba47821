import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.uncertainty.quality import fit_line, fit_quality, quality_band, risk_coverage


def cases(count: int, seed: int, *, slope: float = 1.0, noise: float = 0.03):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.75, 0.95, count)
    return confidence, 0.8 + slope * (confidence - 0.85) + noise * rng.normal(size=count)


def test_many_cases_decide_the_slope() -> None:
    line = fit_line(*cases(500, 0, slope=0.4))
    assert line.slope == pytest.approx(0.4, abs=0.05)
    assert line.spread == pytest.approx(0.03, abs=0.005)
    assert line.estimate(0.85) == pytest.approx(0.8, abs=0.01)


def test_few_cases_leave_it_near_one() -> None:
    confidence = np.array([0.900, 0.901, 0.902])
    line = fit_line(confidence, np.array([0.90, 0.80, 0.85]))  # a slope of -25, by noise
    assert 0.5 < line.slope < 1.2


@pytest.mark.parametrize("count", [5, 8, 20])
def test_ninety_per_cent_lie_in_the_interval(count) -> None:
    inside = []
    for seed in range(300):
        confidence, dice = cases(count + 1, seed)
        low, high = fit_line(confidence[:-1], dice[:-1]).interval(confidence[-1])
        inside.append(low <= dice[-1] <= high)
    assert 0.86 <= np.mean(inside) <= 0.97


def test_a_surer_student_is_not_thought_better_for_it() -> None:
    confidence, dice = cases(10, 1)
    judged = {"a": confidence.tolist()}
    model = fit_quality(judged, {"a": dice.tolist()}, {"a": (confidence + 0.04).tolist()})
    assert model is not None
    mean = float(confidence.mean())
    assert model.mean.estimate(mean + 0.04) == pytest.approx(float(dice.mean()), abs=1e-6)
    assert model.labels["a"].center == pytest.approx(mean + 0.04)


def test_what_it_learned_from_moves_level_and_spread_by_a_third() -> None:
    confidence, dice = cases(10, 1)
    judged, learned = {"a": confidence.tolist()}, {"a": (dice + 0.1).tolist()}
    pairs = (judged, {"a": dice.tolist()}, judged)
    plain, blended = fit_quality(*pairs), fit_quality(*pairs, (judged, learned))
    assert plain is not None
    assert blended is not None
    assert blended.mean.level == pytest.approx(plain.mean.level + 0.0368)
    assert blended.mean.slope == plain.mean.slope


def test_labels_that_were_not_found_are_left_out_of_the_mean() -> None:
    nan = float("nan")
    confidence = {"a": [0.9, 0.8, 0.85, 0.88], "b": [nan, nan, nan, 0.7]}
    dice = {"a": [0.88, 0.8, 0.83, 0.86], "b": [0.0, nan, 0.0, 0.6]}
    model = fit_quality(confidence, dice, confidence)
    assert model is not None
    assert set(model.labels) == {"a"}
    assert model.mean.cases == 4


def test_two_cases_make_no_model() -> None:
    assert fit_quality({"a": [0.9, 0.8]}, {"a": [0.9, 0.8]}, {"a": [0.9]}) is None


def test_bands_say_how_their_cases_turned_out() -> None:
    confidence = np.linspace(0.6, 0.99, 30)
    dice = confidence.copy()
    dice[-1] = 0.5  # an accepted case that was bad
    model = fit_quality({"a": confidence.tolist()}, {"a": dice.tolist()}, {"a": [0.9]})
    assert model is not None
    assert sum(band.cases for band in model.observed.values()) == 30
    assert model.observed["accept"].below >= 1
    assert model.observed["redo"].below == 0


def test_verdicts() -> None:
    assert [quality_band(value) for value in (0.9, 0.85, 0.8, 0.7, 0.5)] == [
        *("accept", "accept", "check", "check", "redo")
    ]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_best_order_has_the_least_risk_everywhere(dice) -> None:
    truth = np.array(dice)
    best, any_order = risk_coverage(truth, truth), risk_coverage(-truth, truth)
    assert (best <= any_order + 1e-12).all()
    assert best[-1] == pytest.approx(any_order[-1])
