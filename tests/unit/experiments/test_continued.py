import json
from dataclasses import replace

import pytest
from rich.console import Console

from uncol.errors import RequestError
from uncol.experiments.comparison import Comparison
from uncol.experiments.continued import play


@pytest.fixture
def comparison(ball_pool, tmp_path, tiny_settings):
    return Comparison(
        pool=ball_pool,
        methods=("uncol",),
        budgets=(2, 3),
        seeds=(0, 1),
        train=5,
        test=2,
        steps=None,
        settings=tiny_settings(tmp_path, step_scale=0.01),
        out=tmp_path / "lines.jsonl",
    )


def test_the_next_round_is_trained_going_on_and_afresh(comparison, capsys):
    points = play(comparison, Console())
    assert [(p["seed"], p["round"]) for p in points] == [
        (seed, name) for seed in (0, 1) for name in ("first", "continued", "afresh")
    ]
    first, continued, afresh = points[:3]
    assert continued["steps_done"] == pytest.approx(afresh["steps_done"] / 4, abs=1)
    assert set(continued["dice_per_case"]) == set(afresh["dice_per_case"])
    assert (first["before"], first["budget"]) == (2, 3)
    assert "minus afresh" in capsys.readouterr().out
    lines = comparison.out.read_text().splitlines()
    assert [json.loads(line) for line in lines] == points

    comparison.out.write_text("\n".join(lines[:3]) + "\n")  # killed in the second seed
    again = play(comparison, Console(quiet=True))
    assert [p["dice"] for p in again] == [p["dice"] for p in points]


def test_one_budget_is_no_second_round(comparison):
    with pytest.raises(RequestError, match="two budgets"):
        play(replace(comparison, budgets=(3,)), Console(quiet=True))
