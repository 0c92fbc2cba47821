import json
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from uncol.errors import RequestError
from uncol.experiments import minutes
from uncol.experiments import ssl as module
from uncol.experiments.comparison import Comparison, Training
from uncol.experiments.pool import open_pool
from uncol.experiments.ssl import compare, kept
from uncol.experiments.ssl_report import OTHERS, table
from uncol.training.loop import Step

QUIET = Console(quiet=True)


@pytest.fixture
def comparison(ball_pool, tmp_path, tiny_settings):
    return Comparison(
        pool=ball_pool,
        methods=("supervised", "bcp", "supervised_all"),
        budgets=(2,),
        seeds=(0,),
        train=5,
        test=2,
        steps=(1, 2),
        settings=tiny_settings(tmp_path, step_scale=1.0),
        out=tmp_path / "out" / "lines.jsonl",
    )


def test_each_run_writes_a_line_and_a_killed_comparison_goes_on(comparison):
    points = compare(comparison, QUIET)
    told = [(p["method"], p["budget"], p["seed"]) for p in points]
    assert told == [("supervised", 2, 0), ("bcp", 2, 0), ("supervised_all", 5, 0)]
    for point in points:
        assert point["dice"] == pytest.approx(np.mean(list(point["dice_per_label"].values())))
        assert len(point["dice_per_case"]) == 2
        assert point["planned_steps"] == [1, 2]
        assert point["seconds"] > 0
        assert point["step_seconds"] > 0
    assert comparison.out.with_suffix(".png").stat().st_size > 1000
    lines = comparison.out.read_text().splitlines()
    assert [json.loads(line) for line in lines] == points

    comparison.out.write_text("\n".join(lines[:2]) + "\n" + lines[2][:20])
    again = compare(comparison, QUIET)
    assert again[:2] == points[:2]
    assert again[2]["dice"] == points[2]["dice"]  # computed anew, and the same


def test_students_are_judged_with_and_without_their_stray_pieces(comparison, capsys):
    some = replace(comparison, methods=("supervised", "uncol_release"), budgets=(2, 5))
    points = compare(some, Console())
    few, many, _, released_many = points
    assert few["single"] == []  # two annotated scans are too few for the rule
    assert few["served"]["dice"] == few["dice"]
    assert many["single"]
    assert many["served"]["dice_per_case"].keys() == many["dice_per_case"].keys()
    assert many["served"]["dice"] != many["dice"]
    assert released_many["single"] == []  # the released code drops nothing
    assert "As served" in capsys.readouterr().out


def test_lines_of_other_options_are_not_taken_for_ones_own(comparison):
    compare(replace(comparison, methods=("bcp",)), QUIET)
    compare(replace(comparison, methods=("bcp",), steps=(2, 1)), QUIET)
    steps = [json.loads(line)["steps"] for line in comparison.out.read_text().splitlines()]
    assert steps == [[1, 2], [2, 1]]


def test_test_cases_never_train_and_budgets_share_cases(comparison, monkeypatch):
    from uncol.experiments import ssl

    pools = []
    train = ssl.train

    def listen(begun, *arguments):
        pools.append(begun.prepared.pool)
        return train(begun, *arguments)

    monkeypatch.setattr(ssl, "train", listen)
    (point, _) = compare(replace(comparison, methods=("bcp",), budgets=(1, 3)), QUIET)
    test = {name.removesuffix(".nii.gz") for name in point["dice_per_case"]}
    small, large = ([case.name for case in pool.labeled] for pool in pools)
    assert large[:1] == small
    for pool in pools:
        names = {case.name for case in (*pool.labeled, *pool.unlabeled)}
        assert len(names) == 5
        assert not names & test
        assert all(case.label is None for case in pool.unlabeled)


def test_supervised_learns_from_its_labels_alone(comparison, monkeypatch):
    from uncol.experiments import ssl

    pools = []
    train = ssl.train
    monkeypatch.setattr(ssl, "train", lambda b, *a: pools.append(b.prepared.pool) or train(b, *a))
    compare(replace(comparison, methods=("supervised",)), QUIET)
    assert [len(pools[0].labeled), len(pools[0].unlabeled)] == [2, 0]


def test_all_methods_train_the_same_student_on_crops_of_one_size(comparison, monkeypatch):
    from uncol.experiments import ssl

    images = comparison.pool.images
    labeled, *_ = comparison.pool.parts(0, test=2)[0]
    for folder in (images, comparison.pool.truth):  # the one labeled scan has other voxels
        image = nib.load(folder / labeled)
        nib.save(
            nib.Nifti1Image(np.asanyarray(image.dataobj), np.diag([1, 1, 3, 1])), folder / labeled
        )
    manifests = []
    train = ssl.train

    def listen(*arguments):
        fitted = train(*arguments)
        manifests.append(fitted.manifest)
        return fitted

    monkeypatch.setattr(ssl, "train", listen)
    compare(replace(comparison, methods=("supervised", "bcp"), budgets=(1,)), QUIET)
    supervised, bcp = ((m.spacing_mm, m.window, m.spec) for m in manifests)
    assert supervised == bcp


def test_a_method_finding_nothing_is_judged_like_any_other(comparison, monkeypatch):
    from uncol.experiments import ssl

    train = ssl.train

    def forget(*arguments):
        fitted = train(*arguments)
        for parameter in fitted.student.parameters():
            parameter.data.zero_()  # all classes are equally likely; the first is background
        return fitted

    monkeypatch.setattr(ssl, "train", forget)
    (point,) = compare(replace(comparison, methods=("uncol_release",), steps=(1, 1)), QUIET)
    assert point["undefined"] == 2
    assert point["hd95_mm"] == {"ball": None}  # not 0, as the released code has it


def test_all_methods_of_a_budget_get_the_same_steps(comparison):
    planned = replace(comparison, steps=None, budgets=(2, 4))
    assert planned.plan(5) == planned.plan(4)  # supervised_all trains as long as the longest
    assert planned.plan(2).steps < planned.plan(4).steps


def test_a_training_of_minutes_gets_the_steps_that_fit(comparison, capsys, monkeypatch):
    # three short trainings of 2, 1 and 4 s: the generalist's look takes 1 s, a step 1/8 s
    told = iter(4 * [0.0, 2.0, 0.0, 1.0, 0.0, 4.0])
    monkeypatch.setattr(minutes, "time", SimpleNamespace(monotonic=told.__next__))
    timed = replace(comparison, methods=("supervised", "bcp"), steps=None, minutes=(0.05, 0.1))
    points = compare(timed, Console())
    assert [(p["method"], p["minutes"]) for p in points] == [
        ("supervised", 0.05), ("supervised", 0.1), ("bcp", 0.05), ("bcp", 0.1),
    ]  # fmt: skip
    assert [sum(point["planned_steps"]) for point in points] == [16, 40, 16, 40]
    first, second = points[0]["planned_steps"]
    planned = timed.plan(2)
    assert first / (first + second) == pytest.approx(
        planned.pretrain_steps / planned.steps, abs=1 / (first + second)
    )
    shown = capsys.readouterr().out
    assert "minutes" in shown
    assert "0.05" in shown
    assert compare(timed, QUIET) == points  # none is computed again
    assert not kept(replace(timed, minutes=()), Training("bcp", 2, 0))


def test_lines_of_others_for_the_same_minutes_are_shown_beside(comparison, capsys):
    timed = replace(comparison, methods=("supervised",), steps=None, minutes=(0.05,))
    (own,) = compare(timed, QUIET)
    other = {**own, "method": OTHERS[1], "recipe": "3d_fullres", "dice": 0.123}
    strangers = [{**other, "seed": 5}, {**other, "minutes": 9.0}, {**other, "train": 6}]
    with comparison.out.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in (*strangers, other))
    assert compare(timed, Console(width=250)) == [own, other]
    shown = capsys.readouterr().out
    assert "nnunet" in shown
    assert "0.123" in shown


def test_minutes_that_no_training_fits_are_refused(comparison):
    with pytest.raises(RequestError, match=r"bcp, 0\.0001 minutes: that is too short"):
        compare(replace(comparison, methods=("bcp",), steps=None, minutes=(0.0001,)), QUIET)


def test_a_published_split_is_kept_whatever_the_seed(ball_pool, tmp_path):
    (tmp_path / "train.list").write_text("c3\nc1\nc5\n")
    (tmp_path / "test.list").write_text("c0\nc2\n")
    pool = open_pool(tmp_path, "ball")
    train = ["c3.nii.gz", "c1.nii.gz", "c5.nii.gz"]
    assert pool.parts(0, test=1) == pool.parts(9, test=1) == (train, ["c0.nii.gz"])


def test_without_one_the_seed_draws_both_parts(ball_pool):
    train, test = ball_pool.parts(0, test=3)
    assert len(test) == 3
    assert sorted(train + test) == list(ball_pool.files)
    assert ball_pool.parts(1, test=3)[1] != test


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("test", [1, 2, 3, 5])
def test_no_patient_trains_and_judges(ball_pool, tmp_path, seed, test):
    patients = {file: f"p{number // 2}_{file}" for number, file in enumerate(ball_pool.files)}
    for file, name in patients.items():
        for folder in (ball_pool.images, ball_pool.truth):
            (folder / file).rename(folder / name)
    pool = open_pool(tmp_path, "ball", patient=r"^p\d+")
    train, held = pool.parts(seed, test=test)
    assert test <= len(held) <= test + 1
    assert sorted(train + held) == sorted(patients.values())
    assert not {name[:2] for name in train} & {name[:2] for name in held}
    assert [name[:2] for name in train] == sorted(
        (name[:2] for name in train), key=[name[:2] for name in train].index
    )  # a patient's scans follow each other


def test_an_expression_for_patients_must_be_one_and_must_match(ball_pool, tmp_path):
    with pytest.raises(RequestError, match="not a regular expression"):
        open_pool(tmp_path, "ball", patient="(")
    with pytest.raises(RequestError, match="matches nothing in 'c"):
        open_pool(tmp_path, "ball", patient="^patient").parts(0, test=2)


def test_every_seed_must_leave_enough_to_train(comparison, tmp_path):
    names = sorted(comparison.pool.files)
    for file in names[:5]:  # one patient has five of the nine scans
        for folder in (comparison.pool.images, comparison.pool.truth):
            (folder / file).rename(folder / f"c_{file}")
    pool = open_pool(tmp_path, "ball", patient=r"^c(_|\d)")
    sizes = [len(pool.parts(seed, test=2)[0]) for seed in range(9)]
    enough, too_few = sizes.index(7), next(s for s, size in enumerate(sizes) if size < 5)
    grouped = replace(comparison, pool=pool, seeds=(enough,))
    grouped.check()
    with pytest.raises(RequestError, match=f"5 to train and 2 to judge .*seed {too_few} draws"):
        replace(grouped, seeds=(enough, too_few)).check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("cbp",)}, "No method 'cbp'; choose of supervised"),
        ({"baseline": "cbp"}, "No method 'cbp'; choose of supervised"),
        ({"train": 30}, "holds 9 labeled scans; 30 to train"),
        ({"minutes": (1.0,)}, "--minutes above 0, or --steps, not both"),
        ({"minutes": (0.0,), "steps": None}, "--minutes above 0"),
        ({"minutes": (float("nan"),), "steps": None}, "--minutes above 0"),
        ({"budgets": (0, 2)}, "Budgets must lie between 1"),
        ({"budgets": (6,)}, "Budgets must lie between 1 and --train 5"),
    ],
)
def test_what_cannot_be_compared_is_refused(comparison, change, message):
    with pytest.raises(RequestError, match=message):
        compare(replace(comparison, **change), QUIET)


def test_a_step_s_time_counts_cheap_and_dear_ones_but_not_the_few_that_prompt(monkeypatch):
    took = [0.0, 9.0, *[1.0] * 19, *[3.0] * 19, 9.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=iter(np.cumsum(took)).__next__))
    clock = module.Clock()
    for number in range(len(took)):
        clock.step(Step(2, number, {}, {}))
    assert clock.mean() == pytest.approx(2.0, abs=0.1)


def test_the_table_pairs_seeds_and_leaves_out_distances_of_empty_masks():
    def point(method, seed, dice, hd95):
        return {
            "method": method,
            "budget": 2,
            "seed": seed,
            "dice": dice,
            "dice_per_case": {f"c{seed}": dice - 0.01, "both": dice + 0.01, "odd": None},
            "hd95_mm": {"a": hd95, "b": None},
            "asd_mm": {"a": 1.0, "b": 1.0},
            "step_seconds": 0.1,
            "seconds": 5.0,
        }

    points = [point("supervised", s, 0.7, 4.0) for s in (0, 1)]
    points += [point("uncol", 0, 0.78, 2.0), point("uncol", 1, 0.80, 3.0)]
    columns = [list(column.cells) for column in table(points, "Students").columns]
    assert columns[1] == ["supervised", "uncol"]
    assert columns[3][1].startswith("+0.0900 (-0.0371 to")
    assert columns[4][1].startswith("+0.0900 (+0.0")  # cases 0.08, 0.10 and 0.09 of both seeds
    assert columns[5] == ["4.00", "2.50"]

    columns = [list(column.cells) for column in table(points, "Students", baseline="uncol").columns]
    assert columns[3][1] == ""
    assert columns[4][0].startswith("-0.0900 (-0.1")
