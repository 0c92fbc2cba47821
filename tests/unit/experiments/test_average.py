import json

import pytest
from rich.console import Console

from uncol.experiments.average import follow
from uncol.experiments.comparison import Comparison


@pytest.fixture
def comparison(ball_pool, tmp_path, tiny_settings):
    return Comparison(
        pool=ball_pool,
        methods=("supervised",),
        budgets=(2,),
        seeds=(0, 1),
        train=5,
        test=2,
        steps=(2, 2),
        settings=tiny_settings(tmp_path, step_scale=1.0),
        out=tmp_path / "lines.jsonl",
    )


def test_student_and_average_are_judged_at_a_quarter_half_and_all_of_a_run(comparison, capsys):
    points = follow(comparison, Console())
    assert [(p["seed"], p["share"], p["step"]) for p in points] == [
        (seed, share, step) for seed in (0, 1) for share, step in ((0.25, 1), (0.5, 2), (1.0, 4))
    ]
    assert all(0 <= p[name] <= 1 for p in points for name in ("student", "average"))
    assert "As served" in capsys.readouterr().out
    lines = comparison.out.read_text().splitlines()
    assert [json.loads(line) for line in lines] == points

    comparison.out.write_text("\n".join(lines[:4]) + "\n")  # killed in the second run
    assert follow(comparison, Console(quiet=True)) == points
