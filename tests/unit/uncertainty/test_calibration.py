import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uncol.uncertainty.calibration import (
    ERROR_HIGH,
    ERROR_MEDIUM,
    Calibration,
    Voxels,
    blend,
    error_curve,
    error_rates,
    find_bands,
    join,
    match_temperatures,
    tempered,
)
from uncol.uncertainty.maps import entropy, most_probable, temper_
from uncol.uncertainty.measure import row_uncertainty


def voxels(sharpness: float, *, count: int = 40_000, classes: int = 3, seed: int = 0) -> Voxels:
    """Return voxels whose truth follows softmax(logits), predicted as softmax(sharpness logits)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (rng.random(count)[:, None] > true.cumsum(axis=1)).sum(axis=1)
    sharp = np.exp(sharpness * logits)
    return Voxels(sharp / sharp.sum(axis=1, keepdims=True), np.minimum(truth, classes - 1))


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0, 3.0])
def test_matching_undoes_a_known_overconfidence(sharpness) -> None:
    seen, own = voxels(sharpness, seed=1), voxels(sharpness, seed=2)
    temperatures = match_temperatures(own.probs, error_rates(seen), cases=8)
    assert temperatures == pytest.approx([sharpness] * 3, rel=0.08)


def test_each_label_gets_its_own_temperature() -> None:
    sure, unsure = voxels(3.0, seed=1), voxels(1.0, seed=2)
    parts = [
        Voxels(v.probs[v.label == value], v.truth[v.label == value])
        for v, value in ((sure, 0), (unsure, 1))
    ]
    found = match_temperatures(join(parts).probs, error_rates(join(parts)), cases=10_000)
    assert found[0] == pytest.approx(3, rel=0.1)
    assert found[1] == pytest.approx(1, rel=0.1)
    assert found[1] < found[2] < found[0]  # never predicted: it gets what suits all together


def test_few_cases_say_little_about_single_labels() -> None:
    sure, unsure = voxels(3.0, seed=1), voxels(1.0, seed=2)
    parts = [
        Voxels(v.probs[v.label == value], v.truth[v.label == value])
        for v, value in ((sure, 0), (unsure, 1))
    ]
    few, many = (
        match_temperatures(join(parts).probs, error_rates(join(parts)), cases=n) for n in (2, 999)
    )
    assert many[1] < few[1] < few[0] < many[0]


def test_the_632_estimate_lies_between() -> None:
    assert blend((0.2, 0.1), (0.1, 0.1)) == pytest.approx((0.1632, 0.1))


def test_impossible_rates_end_at_the_bounds_instead_of_failing() -> None:
    probs = voxels(1.0).probs
    assert match_temperatures(probs, (0.0, 0.0, 0.0), cases=8)[0] < 0.3
    assert match_temperatures(probs, (0.99, 0.99, 0.99), cases=8)[0] > 7


@given(st.tuples(*[st.floats(0.3, 5.0)] * 3))
def test_tempering_never_changes_the_label_and_both_ways_agree(temperatures) -> None:
    probs = voxels(1.0, count=200).probs.astype(np.float32)
    found = tempered(probs, temperatures)
    np.testing.assert_array_equal(found.argmax(axis=1), probs.argmax(axis=1))
    volume = torch.from_numpy(probs.T.copy()).reshape(3, 10, 10, 2)
    temper_(volume, most_probable(volume), temperatures)
    np.testing.assert_allclose(volume.reshape(3, -1).T.numpy(), found, atol=2e-5)
    flat = entropy(volume, dim=0).reshape(-1).numpy()
    np.testing.assert_allclose(flat, row_uncertainty(found), atol=1e-4)


def test_the_curve_says_how_many_are_wrong() -> None:
    seen = voxels(1.0)
    unsure = row_uncertainty(seen.probs)
    calibration = Calibration(curve=error_curve(unsure, seen.label != seen.truth))
    for low in (0.2, 0.5, 0.8):
        inside = (unsure > low) & (unsure < low + 0.1)
        expected = float(calibration.expected_error(unsure[inside]).mean())
        assert expected == pytest.approx((seen.label != seen.truth)[inside].mean(), abs=0.02)
    assert list(calibration.curve) == sorted(calibration.curve)


def test_bands_begin_where_the_error_does_and_state_it() -> None:
    seen = voxels(1.0)
    unsure, wrong = row_uncertainty(seen.probs), (seen.label != seen.truth).astype(float)
    curve = error_curve(unsure, wrong)
    high, medium = find_bands(curve, unsure, wrong)
    assert 0 < medium.threshold < high.threshold < 1
    near = abs(unsure - high.threshold) < 0.03
    assert wrong[near].mean() == pytest.approx(ERROR_HIGH, abs=0.05)
    near = abs(unsure - medium.threshold) < 0.03
    assert wrong[near].mean() == pytest.approx(ERROR_MEDIUM, abs=0.05)
    assert high.error_rate == pytest.approx(wrong[unsure >= high.threshold].mean())


def test_a_student_that_never_errs_has_no_band_to_speak_of() -> None:
    unsure = np.linspace(0, 0.4, 1000)
    high, medium = find_bands(error_curve(unsure, np.zeros(1000)), unsure, np.zeros(1000))
    assert high.threshold > 0.95
    assert medium.threshold > 0.95
    assert high.error_rate is None


def test_without_calibration_nothing_changes() -> None:
    neutral = Calibration()
    assert neutral.temperatures_for(3) == (1.0, 1.0, 1.0)
    assert neutral.expected_error(np.array([0.0, 1.0])).tolist() == [0.0, 0.5]
    probs = torch.rand(2, 3, 3, 3)
    assert temper_(probs.clone(), most_probable(probs), (1.0, 1.0)).equal(probs)


def test_it_survives_its_file() -> None:
    made = Calibration(source="held_out", cases=5, temperatures=(1.0, 2.0), curve=(0.0, 0.5))
    assert Calibration.model_validate_json(made.model_dump_json()) == made
