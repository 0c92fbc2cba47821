import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.method import schedules


@pytest.mark.parametrize(
    ("share", "expected"), [(0, 0.7517), (0.25, 0.765), (0.5, 0.822), (0.75, 0.933), (1, 1.0)]
)
def test_the_gate_opens_as_the_fact_sheet_says(share, expected):
    assert schedules.trust_threshold(int(share * 15000), 15000) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.1 * 0.0067379), (3750, 0.1 * 0.2865048), (7500, 0.1), (15000, 0.1)]
)
def test_distillation_is_full_at_half_of_the_steps(step, expected):
    assert schedules.distillation_weight(step, 15000) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.01), (7500, 0.0053589), (15000, 0.0)])
def test_the_rate_falls_with_power_nine_tenths(step, expected):
    assert schedules.polynomial_rate(0.01, step, 15000) == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 50), st.integers(0, 50))
def test_ramps_only_rise_rates_only_fall_and_no_step_count_breaks_them(step, total):
    for ramp in (schedules.trust_threshold, schedules.distillation_weight):
        assert ramp(step, total) <= ramp(step + 1, total)
    rate = schedules.polynomial_rate(1.0, step, total)
    assert 0 <= schedules.polynomial_rate(1.0, step + 1, total) <= rate <= 1


@pytest.mark.parametrize(
    ("window", "total", "expected"),
    [(0.035, 30_000, 0.99), (0.035, 600, 1 - 1 / 21), (1.0, 30_000, 0.99), (0.035, 10, 0.0)],
)
def test_the_average_remembers_a_share_of_the_run(window, total, expected):
    assert schedules.average_momentum(window, total) == pytest.approx(expected)
