import random

from uncol.selection.scores import Score, ScoreFile
from uncol.selection.strategies import STRATEGIES, at_random, by_uncertainty, in_order

SCORES = {
    "low": Score(0.9, 0.1, "sure"),
    "high": Score(0.4, 0.8, "unsure"),
    "middle": Score(0.7, 0.4, "so so"),
}
CASES = ["low", "middle", "high", "new"]


def names(choices) -> list[str]:
    return [choice.case for choice in choices]


def test_the_most_uncertain_case_comes_first_and_unscored_ones_last() -> None:
    order = by_uncertainty(CASES, SCORES, 0)
    assert names(order) == ["high", "middle", "low", "new"]
    assert [choice.rank for choice in order] == [1, 2, 3, 4]
    assert order[0].reason == "unsure"


def test_no_order_depends_on_that_of_the_datastore() -> None:
    for _, ranking in STRATEGIES.values():
        shuffled = random.Random(3).sample(CASES, len(CASES))
        assert names(ranking(CASES, SCORES, 5)) == names(ranking(shuffled, SCORES, 5))


def test_equal_scores_are_broken_by_seed_and_not_by_name() -> None:
    cases = [f"case{number:02d}" for number in range(20)]
    same = {name: Score(0.5, 0.5, "") for name in cases}
    first, second = (names(by_uncertainty(cases, same, seed)) for seed in (1, 2))
    assert first != second
    assert first != cases
    assert sorted(first) == cases


def test_random_is_the_same_for_the_same_seed() -> None:
    assert names(at_random(CASES, {}, 1)) == names(at_random(CASES, {}, 1))


def test_first_goes_by_name() -> None:
    assert names(in_order(["b", "a"], {}, 0)) == ["a", "b"]


def test_scores_survive_the_file_and_a_damaged_one_counts_as_none(tmp_path) -> None:
    file = ScoreFile(tmp_path, 3)
    assert file.read() == {}
    file.write(SCORES)
    assert file.read() == SCORES
    file.path.write_text("{")
    assert file.read() == {}
