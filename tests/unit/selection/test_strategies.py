import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.selection.scores import LabelScore, Score
from uncol.selection.strategies import (
    STRATEGIES,
    Candidates,
    at_random,
    by_uncertainty,
    by_uncol,
    foreground_at_random,
    in_order,
)


def score(case: str, a: float, b: float = 0.1, *, voxels: int = 100) -> Score:
    labels = {
        "a": LabelScore(uncertainty=a, voxels=100, dice=0.8),
        "b": LabelScore(uncertainty=b if voxels else 0.0, voxels=voxels, dice=0.8),
    }
    return Score(case=case, quality=0.8, interval=(0.7, 0.9), band="check", labels=labels)


def pool(count: int = 12, *, labeled: int = 0, seed: int = 0, embedded: bool = True) -> Candidates:
    rng = np.random.default_rng(seed)
    names = [f"case{number:02d}" for number in range(count)]
    return Candidates(
        frozenset(names[labeled:]),
        frozenset(names[:labeled]),
        {n: score(n, *rng.uniform(0.05, 0.6, 2)) for n in names[labeled:]},
        {n: tuple(rng.normal(size=6)) for n in names} if embedded else {},
    )


def names(choices) -> list[str]:
    return [choice.case for choice in choices]


def test_the_most_uncertain_case_comes_first_and_unscored_ones_last() -> None:
    scores = {name: score(name, value, value) for name, value in (("low", 0.1), ("high", 0.8))}
    order = by_uncertainty(Candidates({"low", "new", "high"}, scores=scores), 0)
    assert names(order) == ["high", "low", "new"]
    assert [choice.rank for choice in order] == [1, 2, 3]
    assert "estimated Dice 0.80 (0.70 to 0.90)" in order[0].reason


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(st.integers(0, 20), st.integers(0, 5), st.integers(0, 99), st.booleans())
def test_every_waiting_case_has_one_rank_and_no_order_depends_on_the_datastore_s(
    strategy, count, labeled, seed, embedded
) -> None:
    given_pool = pool(count + labeled, labeled=labeled, seed=seed, embedded=embedded)
    shuffler = random.Random(seed)

    def mixed(mapping):
        keys = list(mapping)
        shuffler.shuffle(keys)
        return {key: mapping[key] for key in keys}

    other = Candidates(
        set(mixed(dict.fromkeys(given_pool.waiting))),
        set(mixed(dict.fromkeys(given_pool.labeled))),
        mixed(given_pool.scores),
        mixed(given_pool.embeddings),
    )
    ranking = STRATEGIES[strategy][1]
    order = ranking(given_pool, seed)
    assert sorted(names(order)) == sorted(given_pool.waiting)
    assert [choice.rank for choice in order] == list(range(1, count + 1))
    assert order == ranking(other, seed)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "first"])
def test_equal_scores_are_broken_by_seed_and_not_by_name(strategy) -> None:
    cases = frozenset(f"case{number:02d}" for number in range(20))
    same = Candidates(cases, scores={name: score(name, 0.3, 0.3) for name in cases})
    first, second = (names(STRATEGIES[strategy][1](same, seed)) for seed in (1, 2))
    assert first != second
    assert first != sorted(cases)
    assert sorted(first) == sorted(cases)


def test_labels_take_turns_however_much_surer_the_student_is_of_one() -> None:
    """60 cases unsure about a, 6 mildly about b: plain uncertainty would never ask for b."""
    scores = {f"a{n:02d}": score(f"a{n:02d}", 0.6 + n / 1000, 0.01) for n in range(60)}
    scores |= {f"b{n}": score(f"b{n}", 0.01, 0.1) for n in range(6)}
    many = frozenset(f"done{n}" for n in range(60))  # noise has faded by then
    order = names(by_uncol(Candidates(scores.keys(), many, scores), 0))
    kinds = Counter(name[0] for name in order[:9])
    assert kinds == {"a": 6, "b": 3}
    assert all(
        name.startswith("a")
        for name in names(by_uncertainty(Candidates(scores.keys(), many, scores), 0))[:9]
    )


def test_noise_fades_as_labels_come_in() -> None:
    scores = {f"c{n:02d}": score(f"c{n:02d}", 0.05 + n / 100, 0.05 + n / 100) for n in range(40)}
    best = sorted(scores, key=lambda name: -scores[name].uncertainty)[:10]

    def hits(labeled: int) -> float:
        done = frozenset(f"done{n}" for n in range(labeled))
        orders = [names(by_uncol(Candidates(scores.keys(), done, scores), s)) for s in range(10)]
        return float(np.mean([len(set(order[:10]) & set(best)) for order in orders]))

    assert hits(40) > 9
    assert hits(2) < hits(40) - 2


def test_near_duplicates_of_what_is_labeled_or_chosen_wait() -> None:
    """Of ten equally unsure cases nine look like the labeled one."""
    twins = {f"twin{n}": (1.0, 0.001 * n, 0.0) for n in range(9)}
    embeddings = {**twins, "other": (0.0, 1.0, 1.0), "done": (1.0, 0.0, 0.0)}
    scores = {name: score(name, 0.3, 0.3) for name in (*twins, "other")}
    done = frozenset({"done", *(f"elsewhere{n}" for n in range(30))})
    for seed in range(5):
        order = names(by_uncol(Candidates(scores.keys(), done, scores, embeddings), seed))
        assert order[0] == "other"


def test_a_usual_label_that_is_missed_makes_a_case_urgent() -> None:
    scores = {f"c{n}": score(f"c{n}", 0.3, 0.3) for n in range(9)}
    scores["missed"] = score("missed", 0.3, voxels=0)
    done = frozenset(f"done{n}" for n in range(100))
    order = by_uncol(Candidates(scores.keys(), done, scores), 0)
    place = names(order).index("missed")
    assert place <= 2
    assert order[place].reason.startswith("The model finds no b")


def test_before_any_model_the_first_case_is_typical_and_the_next_ones_differ() -> None:
    rng = np.random.default_rng(0)
    centres = {"x": (8.0, 0.0), "y": (-4.0, 7.0), "z": (-4.0, -7.0)}
    counts = {"x": 14, "y": 8, "z": 8}
    vectors = {
        f"{key}{n}": tuple(np.array(centre) + rng.normal(size=2) * 0.3)
        for key, centre in centres.items()
        for n in range(counts[key])
    } | {"outlier": (0.0, 40.0)}
    order = by_uncol(Candidates(vectors.keys(), embeddings=vectors), 0)
    assert {name[0] for name in names(order)[:4]} >= {"x", "y", "z"}
    assert names(order)[0] != "outlier"
    assert "foundation model" in order[0].reason


def test_cases_without_any_label_found_come_last_by_foreground() -> None:
    scores = {f"c{n}": score(f"c{n}", 0.3) for n in range(6)}
    scores["none"] = score("none", 0.3, voxels=0)
    for seed in range(10):
        assert names(foreground_at_random(Candidates(scores.keys(), scores=scores), seed))[-1] == (
            "none"
        )


def test_random_is_the_same_for_the_same_seed_and_first_goes_by_name() -> None:
    given_pool = pool(10)
    assert at_random(given_pool, 1) == at_random(given_pool, 1)
    assert names(in_order(Candidates({"b", "a"}), 0)) == ["a", "b"]


def test_where_no_label_is_usual_an_empty_scan_is_not_urgent() -> None:
    scores = {f"c{n}": score(f"c{n}", 0.2) for n in range(3)}
    for n in range(7):
        labels = {k: LabelScore(uncertainty=0.0, voxels=0, dice=None) for k in ("a", "b")}
        scores[f"empty{n}"] = scores["c0"].model_copy(
            update={"case": f"empty{n}", "labels": labels}
        )
    candidates = Candidates(scores.keys(), scores=scores)
    assert {name[0] for name in names(by_uncertainty(candidates, 0))[:3]} == {"c"}
    assert {name[0] for name in names(foreground_at_random(candidates, 0))[:3]} == {"c"}
