import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.versions.gate import accuracy, compare, interval_of_mean

NAN = float("nan")
dices = st.dictionaries(
    st.sampled_from("abcdef"), st.fixed_dictionaries({"x": st.floats(0, 1), "y": st.floats(0, 1)})
)


def one(**cases):
    return {case: {"x": value} for case, value in cases.items()}


def test_a_better_student_is_published_and_a_worse_one_is_not():
    served = one(a=0.8, b=0.7, c=0.9)
    better = compare(one(a=0.82, b=0.7, c=0.91), served, 3)
    assert better.published
    assert better.difference == pytest.approx(0.01)
    assert better.cases == 3
    worse = compare(one(a=0.78, b=0.7, c=0.91), served, 3)
    assert not worse.published
    assert "version 3 stays" in worse.reason
    assert "0.797 against 0.800" in worse.reason
    assert worse.interval[0] < worse.difference < worse.interval[1]


@given(dices, dices)
def test_what_is_published_is_never_worse_on_the_held_out_cases(new, old):
    verdict = compare(new, old, 1)
    assert verdict.cases == len(new.keys() & old.keys())
    if verdict.cases:
        assert verdict.published == (verdict.difference >= 0)
        assert compare(old, new, 1).difference == pytest.approx(-verdict.difference)


def test_equally_good_is_good_enough():
    assert compare(one(a=0.5), one(a=0.5), 1).published


def test_only_cases_that_both_were_judged_on_count():
    verdict = compare(one(a=0.9, b=0.1), one(a=0.8, c=1.0), 1)
    assert verdict.cases == 1
    assert verdict.published
    assert compare(one(a=NAN), one(a=0.8), 1).cases == 0


def test_without_common_cases_it_says_that_nothing_was_compared():
    verdict = compare({}, {}, 2)
    assert verdict.published
    assert "without a comparison" in verdict.reason


def test_accuracy_is_a_mean_over_cases_of_the_mean_over_labels():
    found = accuracy({"a": {"x": 0.8, "y": 0.6}, "b": {"x": 0.9, "y": NAN}}, source="held_out")
    assert found.per_case == {"a": pytest.approx(0.7), "b": 0.9}
    assert found.dice == pytest.approx(0.8)
    assert found.per_label == {"x": pytest.approx(0.85), "y": 0.6}
    assert "on 2 cases held out from training" in found.text
    assert 0 <= found.interval[0] < found.dice < found.interval[1] <= 1


def test_one_case_has_no_interval_and_none_no_accuracy():
    assert accuracy(one(a=0.8), source="held_out").interval is None
    assert "on 1 case" in accuracy(one(a=0.8), source="held_out").text
    assert accuracy({}, source="held_out") is None
    assert accuracy(one(a=NAN), source="held_out") is None


def test_the_interval_is_student_s():
    low, high = interval_of_mean([1.0, 2.0, 3.0])
    assert (low, high) == (
        pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-3),
        pytest.approx(4.484, abs=1e-3),
    )
