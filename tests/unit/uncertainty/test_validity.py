import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from uncol.uncertainty.validity import (
    auroc,
    bootstrap,
    count,
    coverage,
    ece,
    excess_risk,
    spearman,
)


def test_auroc_is_the_library_s() -> None:
    rng = np.random.default_rng(0)
    wrong = rng.random(5000) < 0.2
    unsure = np.clip(rng.normal(0.3 + 0.2 * wrong, 0.15), 0, 1)
    parts = [count(unsure[i::2], 1 - unsure[i::2], wrong[i::2]) for i in (0, 1)]
    assert auroc(parts) == pytest.approx(roc_auc_score(wrong, unsure), abs=1e-3)


def test_ece_of_true_claims_is_small_and_of_false_ones_is_their_gap() -> None:
    rng = np.random.default_rng(0)
    claimed = rng.uniform(0.5, 1, 50_000)
    true = rng.random(50_000) > claimed
    assert ece([count(1 - claimed, claimed, true)]) < 0.01
    assert ece([count(np.full(100, 0.1), np.full(100, 0.9), np.arange(100) < 50)]) == pytest.approx(
        0.4
    )


def test_coverage_counts_cases_inside() -> None:
    intervals = np.array([[0.1, 0.3], [0.5, 0.9]])
    assert coverage(intervals, np.array([0.2, 0.4])) == 0.5


def test_ranks_and_risk() -> None:
    dice = np.array([0.5, 0.7, 0.9])
    assert spearman(dice * 2, dice) == pytest.approx(1)
    assert np.isnan(spearman(dice * 0, dice))
    assert np.isnan(spearman(dice, dice * 0))
    assert excess_risk(dice, dice) == 0
    assert excess_risk(-dice, dice) > 0


def test_the_interval_holds_the_figure() -> None:
    values = np.random.default_rng(1).normal(size=60)
    found = bootstrap(lambda i: float(values[i].mean()), 60)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(values.mean())
