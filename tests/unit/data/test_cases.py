from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.data.cases import Case, is_held_out, split


def cases(annotated, others=0):
    labeled = [Case(f"case{n}", Path("i"), Path("l")) for n in range(annotated)]
    return labeled + [Case(f"other{n}", Path("i")) for n in range(others)]


@pytest.mark.parametrize(("annotated", "held_out"), [(0, False), (9, False), (30, True)])
def test_cases_are_held_out_from_ten_annotated_ones_on(annotated, held_out):
    assert bool(split(cases(annotated, 5)).held_out) == held_out


@given(st.integers(0, 40), st.integers(0, 10), st.randoms())
def test_every_case_has_exactly_one_part(annotated, others, random):
    pool = cases(annotated, others)
    random.shuffle(pool)
    parts = split(pool)
    names = [c.name for part in (parts.labeled, parts.unlabeled, parts.held_out) for c in part]
    assert sorted(names) == sorted(c.name for c in pool)
    assert all(c.label is None for c in parts.unlabeled)


@given(st.integers(10, 40), st.integers(1, 40))
def test_a_case_never_changes_sides_when_others_join(annotated, more):
    before, after = split(cases(annotated)), split(cases(annotated + more))
    assert all(case in after.held_out for case in before.held_out)
    assert all(case in after.labeled for case in before.labeled)


def test_the_order_of_cases_does_not_matter():
    assert split(cases(20, 3)) == split(reversed(cases(20, 3)))


def test_about_a_fifth_is_held_out():
    share = sum(is_held_out(f"scan_{n}") for n in range(2000)) / 2000
    assert share == pytest.approx(0.2, abs=0.03)


def test_an_annotated_case_with_an_unlucky_name_still_trains_while_there_are_few():
    unlucky = next(f"case{n}" for n in range(100) if is_held_out(f"case{n}"))
    assert [c.name for c in split([Case(unlucky, Path("i"), Path("l"))]).labeled] == [unlucky]
