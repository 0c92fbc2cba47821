import numpy as np
import pytest

from uncol.experiments.rounds import Round, fall, spoil, table
from uncol.versions.metrics import dice_per_label


@pytest.mark.parametrize("seed", range(8))
def test_a_wrong_label_is_clearly_wrong_and_still_a_label(make_ball, seed):
    label = make_ball((20, 20, 20), (9, 9, 6), 4) + 2 * make_ball((20, 20, 20), (9, 9, 14), 3)
    wrong = spoil(label, [1, 2], np.random.default_rng(seed))
    assert set(np.unique(wrong)) <= {0, 1, 2}
    dice = dice_per_label(wrong, label, {"a": 1, "b": 2})
    assert min(dice.values()) < 0.85
    assert wrong.any()


def test_with_one_label_nothing_can_be_confused(make_ball):
    label = make_ball((20, 20, 20), (9, 9, 9), 4).astype(np.uint8)
    for seed in range(8):
        assert not np.array_equal(spoil(label, [1], np.random.default_rng(seed)), label)


def test_the_largest_fall_is_below_the_best_so_far():
    assert fall([0.5, 0.8, 0.7, 0.9]) == pytest.approx(0.1)
    assert fall([0.5, 0.6, 0.6]) == 0


def test_the_table_states_falls_and_errors():
    rows = [
        Round(0, 1, 10, 0, 0.80, 0.82, 0.82, True, 0.9, 0.8),
        Round(0, 2, 20, 3, 0.80, 0.82, 0.70, False, 0.9, 0.7),
    ]
    caption = table(rows).caption
    assert "0.0000, stock 0.1000" in caption
    assert "0.0200, stock 0.1500" in caption
