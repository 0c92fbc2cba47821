import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from uncol.errors import RequestError
from uncol.experiments import session as module
from uncol.experiments.comparison import Comparison
from uncol.experiments.monai_label import stock
from uncol.experiments.session import PLAYERS, GroupSession, draw, play


@pytest.fixture
def session(ball_pool, tmp_path, tiny_settings, monkeypatch):
    monkeypatch.setattr(stock, "CROP", (16, 16, 16))
    monkeypatch.setattr(stock, "EPOCHS", 1)
    comparison = Comparison(
        pool=ball_pool,
        methods=("uncol",),
        budgets=(1, 2, 3),
        seeds=(0,),
        train=6,
        test=2,
        steps=None,
        settings=tiny_settings(tmp_path, step_scale=0.01),
        out=tmp_path / "lines.jsonl",
    )
    return GroupSession(comparison, night=0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MONAI Label and its training
def test_three_groups_label_the_same_cases(session, tmp_path, capsys):
    points = play(session, Console(width=200))
    rounds = [(1, False), (2, False), (3, False)]
    assert [(p["group"], p["labeled"], p["night_after"]) for p in points] == [
        *(("uncol", *one) for one in [*rounds, (3, True)]),
        *((group, *one) for group in PLAYERS[1:] for one in rounds),
    ]
    by_round = {(p["group"], p["labeled"], p["night_after"]): p for p in points}
    # the first case comes without a label, and all of it is drawn by hand
    assert {by_round[group, 1, False]["changed"] for group in PLAYERS} == {1.0}
    assert by_round["uncol", 2, False]["changed"] != 1.0  # a label was carried over
    assert by_round["monai_label", 2, False]["changed"] == 1.0
    # after one label there is nothing to train; what is carried over is judged
    assert by_round["uncol", 1, False]["dice"] > 0.5
    assert by_round["monai_label", 1, False]["dice"] == 0
    assert by_round["uncol", 2, False]["minutes"] > 0
    assert "below 10 labeled cases" in by_round["uncol", 3, True]["idle"][-1]
    assert "a night later" in capsys.readouterr().out
    draw(points, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000

    lines = session.comparison.out.read_text().splitlines()
    session.comparison.out.write_text("\n".join(lines[:-1]) + "\n")  # killed in the last group
    again = play(session, Console(quiet=True))
    assert [json.dumps(p) for p in again[:-3]] == lines[:-3]
    assert [p["labeled"] for p in again[-3:]] == [1, 2, 3]


def test_what_a_person_changes_is_counted_in_voxels_of_the_true_label(ball_pool):
    case = ball_pool.case(ball_pool.files[0], annotated=True)
    truth = np.zeros((16, 16, 16), np.uint8)
    truth[4:8, 5:11, 4:12] = 1
    assert module._changed(None, case) == 1
    assert module._changed(truth, case) == 0
    moved = np.roll(truth, 1, axis=0)
    assert module._changed(moved, case) == pytest.approx(2 / 4)


@pytest.mark.parametrize("budgets", [(2, 1), (2, 2), (1,)])
def test_labels_become_more(session, budgets):
    other = replace(session, comparison=replace(session.comparison, budgets=budgets))
    with pytest.raises(RequestError, match="rising numbers"):
        play(other, Console(quiet=True))
