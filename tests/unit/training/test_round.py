from dataclasses import replace

import numpy as np
import pytest
from balls import ball_case, write

from uncol.calibration.accuracy import shown_accuracy
from uncol.calibration.evidence import Evidence
from uncol.data.cases import Case, decide
from uncol.data.scan import read_scan
from uncol.storage.files import write_json
from uncol.training.reporter import Reporter
from uncol.training.round import train_round
from uncol.versions.loaded import judge, load_version
from uncol.versions.metrics import dice_per_label
from uncol.versions.store import ModelStore


@pytest.fixture
def settings(tmp_path, tiny_settings):
    return tiny_settings(tmp_path / "model", step_scale=0.12)


@pytest.mark.slow
def test_a_round_with_wrong_labels_does_not_replace_the_served_student(tmp_path, settings):
    pool = [ball_case(tmp_path, n, annotated=n < 12) for n in range(14)]
    store = ModelStore(settings.model_dir)
    first = train_round(pool, settings, Reporter())
    assert first.verdict.published
    assert first.served == first.version == 1
    before = shown_accuracy(store)
    assert before.source == "held_out"
    assert before.dice > 0.5
    held_out = set(store.manifest(1).cases["held_out"])
    assert len(held_out) == 2

    wrong = [
        ball_case(tmp_path, n, moved=0 if c.name in held_out else 12, annotated=n < 12)
        for n, c in enumerate(pool)
    ]
    second = train_round(wrong, replace(settings, seed=1), Reporter())
    assert not second.verdict.published
    assert second.verdict.cases == 2
    assert second.served == store.current() == 1
    assert second.version == 2
    refused = store.manifest(2)
    assert refused.gate == second.verdict
    assert refused.accuracy.dice < before.dice
    assert set(refused.cases["held_out"]) == held_out
    assert shown_accuracy(store) == before  # of what is served


def test_below_ten_labels_every_round_is_published_and_says_why(tmp_path, settings):
    pool = [ball_case(tmp_path, n, annotated=n < 4) for n in range(6)]
    quick = replace(settings, step_scale=0.02)
    store = ModelStore(settings.model_dir)
    assert shown_accuracy(store) is None
    train_round(pool, quick, Reporter())
    again = train_round(pool, quick, Reporter())
    assert again.version == again.served == 2
    assert "below 10 labeled cases" in again.verdict.reason
    assert shown_accuracy(store) is None

    folder = store.folder.notes(2).folder  # as the background calibration leaves it
    write_json(folder / "calibration.json", {"source": "cross_fit", "cases": 2})
    for name, dice in (("c00", 0.8), ("c01", 0.6)):
        one = Evidence(case=name, confidence={"ball": 0.5}, dice={"ball": dice}, doubt=None)
        with (folder / "evidence.jsonl").open("a") as stream:
            stream.write(one.model_dump_json() + "\n")
    shown = shown_accuracy(store)
    assert shown.dice == pytest.approx(0.7)
    assert "2 cases by cross-validation" in shown.text


def test_predictions_of_what_may_be_several_keep_all_pieces(tmp_path, settings):
    pool = [ball_case(tmp_path, n, annotated=n < 4) for n in range(5)]
    quick = replace(settings, step_scale=0.02)
    store = ModelStore(settings.model_dir)
    for number, lesions in enumerate((False, True), start=1):
        train_round(pool, replace(quick, one_piece=not lesions), Reporter())
        assert store.manifest(number).one_piece == (() if lesions else ((1,),))


def test_no_version_is_refused_for_keeping_all_pieces(tmp_path, settings, monkeypatch):
    judged = []

    def judging(published, cases, *, released):
        judged.append(published.manifest.one_piece)
        return judge(published, cases, released=released)

    monkeypatch.setattr("uncol.training.round.judge", judging)
    pool = [ball_case(tmp_path, n, annotated=n < 10) for n in range(11)]
    quick = replace(settings, step_scale=0.02)
    train_round(pool, quick, Reporter())
    train_round(pool, replace(quick, one_piece=False), Reporter())
    train_round(pool, quick, Reporter())
    one = ((1,),)
    # round 1: its version alone; round 2: its version and the served one, both without the rule;
    # round 3: its version with the rule
    assert judged[:3] == [one, (), ()]
    assert judged[3] == one
    assert judged[4] in ((), one)  # the served version, by its own rule


def test_a_version_for_other_labels_is_not_compared(tmp_path, settings):
    pool = [ball_case(tmp_path, n, annotated=n < 12) for n in range(14)]
    quick = replace(settings, step_scale=0.02)
    train_round(pool, quick, Reporter())
    renamed = replace(quick, labels={"sphere": 1})
    outcome = train_round(pool, renamed, Reporter())
    assert outcome.verdict.published
    assert "other labels" in outcome.verdict.reason


def test_held_out_cases_are_the_decided_ones(tmp_path, settings):
    pool = [ball_case(tmp_path, n, annotated=n < 12) for n in range(14)]
    train_round(pool, replace(settings, step_scale=0.02), Reporter())
    sides = decide([c.name for c in pool[:12]], {})
    held_out = ModelStore(settings.model_dir).manifest(1).cases["held_out"]
    assert set(held_out) == {name for name, side in sides.items() if side == "held_out"}


@pytest.mark.slow
def test_a_large_structure_is_learned_coarse_and_found_in_the_scans_own_grid(tmp_path, settings):
    shape = (56, 48, 40)
    distance = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - (28, 24, 20), axis=-1)
    label = (distance < 19).astype(np.uint8)
    cases = []
    for number in range(3):
        noise = np.random.default_rng(number).normal(size=shape)
        image = write(tmp_path / f"c{number}.nii.gz", (label * 4 + noise).astype(np.float32))
        drawn = write(tmp_path / f"c{number}_label.nii.gz", label) if number < 2 else None
        cases.append(Case(f"c{number}", image, drawn))
    train_round(cases, settings, Reporter())
    store = ModelStore(settings.model_dir)
    assert store.manifest(1).spacing_mm == (1.5, 1.5, 1.5)
    assert np.prod(store.manifest(1).window) <= 32**3
    published = load_version(store, 1, settings.device)
    found = published.segment(read_scan(cases[2].image)).label
    assert found.shape == shape
    assert dice_per_label(found, label, {"ball": 1})["ball"] > 0.8
