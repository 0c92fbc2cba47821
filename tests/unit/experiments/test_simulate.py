import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from uncol.errors import RequestError
from uncol.experiments.points import gap_text
from uncol.experiments.pool import open_pool
from uncol.experiments.simulate import Simulation, areas, simulate


@pytest.fixture
def simulation(ball_pool, tmp_path, tiny_settings):
    settings = tiny_settings(tmp_path, step_scale=0.01)
    return Simulation(
        pool=ball_pool,
        strategies=("uncol", "random"),
        start=2,
        step=2,
        stop=4,
        seeds=(0,),
        test=2,
        cases=7,
        settings=settings,
        out=tmp_path / "out" / "lines.jsonl",
    )


def test_a_replay_writes_points_and_a_plot_and_goes_on_after_a_kill(simulation) -> None:
    points = simulate(simulation, Console(quiet=True))
    told = [(p["strategy"], p["seed"], p["labelled"]) for p in points]
    assert told == [("uncol", 0, 2), ("uncol", 0, 4), ("random", 0, 2), ("random", 0, 4)]
    assert all(0 <= p["dice"] <= 1 for p in points)
    assert points[0]["dice"] == points[2]["dice"]  # the start is the same for all
    assert simulation.out.with_suffix(".png").stat().st_size > 1000
    lines = simulation.out.read_text().splitlines()
    assert [json.loads(line) for line in lines] == points

    simulation.out.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    again = simulate(simulation, Console(quiet=True))
    assert again == points  # the lost point is computed anew and comes out the same


def test_test_cases_never_train_and_no_case_is_chosen_twice(simulation) -> None:
    points = simulate(simulation, Console(quiet=True))
    files = simulation.pool.shuffled(0)
    for strategy in simulation.strategies:
        chosen = files[2:4] + [c for p in points if p["strategy"] == strategy for c in p["next"]]
        assert len(chosen) == len(set(chosen))
        assert not set(chosen) & set(files[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategies": ("uncool",)}, "No strategy 'uncool'; choose of uncol"),
        ({"stop": 40}, "holds 9 labeled scans; 40 to label"),
        ({"start": 1}, "--start must be 2"),
    ],
)
def test_what_cannot_be_replayed_is_refused(simulation, change, message) -> None:
    with pytest.raises(RequestError, match=message):
        simulate(replace(simulation, **change), Console(quiet=True))


def test_the_area_is_the_mean_over_the_curve_of_whole_curves() -> None:
    def point(strategy, seed, labelled, dice):
        return {"strategy": strategy, "seed": seed, "labelled": labelled, "dice": dice}

    points = [point("a", 0, 4, 0.5), point("a", 0, 8, 0.7), point("a", 0, 16, 0.9)]
    points += [point("a", 1, 4, 0.5)]
    assert areas(points) == {"a": {0: pytest.approx((0.6 * 4 + 0.8 * 8) / 12)}}


def test_paired_gaps_come_with_an_interval() -> None:
    assert gap_text(np.array([])) == ""
    assert gap_text(np.array([0.0, 0.0])) == "0"
    assert gap_text(np.array([0.01, 0.03])).startswith("+0.0200 (-0.1071 to +0.1471)")


def test_a_folder_without_labels_is_refused(tmp_path) -> None:
    with pytest.raises(RequestError, match="must hold the folders images/ and labels/"):
        open_pool(tmp_path, "a")
