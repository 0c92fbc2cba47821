from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from uncol.data.cases import HELD_OUT_FROM, Case, decide, split


def names(count, start=0):
    return [f"case{n}" for n in range(start, start + count)]


def held_out(sides):
    return {name for name, side in sides.items() if side == "held_out"}


def test_below_ten_annotated_cases_all_train():
    assert not held_out(decide(names(9), {}))
    assert len(held_out(decide(names(10), {}))) == 2


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8))
def test_a_case_never_changes_sides_whatever_comes_in(rounds):
    sides, total = {}, 0
    for more in rounds:
        total += more
        after = decide(names(total), sides)
        assert after.items() >= sides.items()
        assert set(after) == set(names(total))
        sides = after
    assert len(held_out(sides)) <= round(0.2 * total)


def test_cases_that_trained_in_early_rounds_never_judge():
    early = decide(names(9), {})
    later = decide(names(30), early)
    assert not held_out(later) & set(names(9))
    assert len(held_out(later)) == 6


def test_of_new_cases_at_most_half_are_taken_from_training():
    early = decide(names(9), {})
    assert len(held_out(decide(names(11), early))) == 1
    assert len(held_out(decide(names(12), early))) == 2


def test_removing_and_returning_a_label_changes_nothing():
    sides = decide(names(20), {})
    without = decide(names(10), sides)
    assert without == sides
    assert decide(names(20), without) == sides


def test_who_judges_depends_on_names_and_not_on_their_order():
    assert decide(reversed(names(20)), {}) == decide(names(20), {})
    assert held_out(decide(names(20), {})) != set(names(4))


@given(st.integers(0, 40), st.integers(0, 10), st.randoms())
def test_every_case_has_exactly_one_part(annotated, others, random):
    pool = [Case(name, Path("i"), Path("l")) for name in names(annotated)]
    pool += [Case(f"other{n}", Path("i")) for n in range(others)]
    sides = decide(names(annotated), {})
    random.shuffle(pool)
    parts = split(pool, sides)
    found = [c.name for part in (parts.labeled, parts.unlabeled, parts.held_out) for c in part]
    assert sorted(found) == sorted(c.name for c in pool)
    assert all(c.label is None for c in parts.unlabeled)
    assert {c.name for c in parts.held_out} == held_out(sides)
    assert bool(parts.held_out) == (annotated >= HELD_OUT_FROM)


def test_a_judging_case_whose_label_was_removed_does_not_train():
    from pathlib import Path

    from uncol.data.cases import Case, split

    cases = [Case("a", Path("a")), Case("b", Path("b"))]
    assert [case.name for case in split(cases, {"a": "held_out"}).unlabeled] == ["b"]
