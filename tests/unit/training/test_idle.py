"""Rounds that nobody asked for."""

from dataclasses import replace

import pytest
from balls import ball_case

from uncol.calibration.calibrate import whole_steps
from uncol.storage.model_folder import checkpoint_in
from uncol.training.plan import make_plan
from uncol.training.reporter import Reporter
from uncol.training.round import train_idle, train_round
from uncol.training.verify import verify
from uncol.versions.manifest import Verdict
from uncol.versions.store import ModelStore

LABELED = 12  # two of them are held out
SHORTER = 200


@pytest.fixture
def cases(tmp_path):
    return [
        ball_case(tmp_path, number, annotated=number < LABELED) for number in range(LABELED + 2)
    ]


@pytest.fixture
def settings(tmp_path, tiny_settings):
    return tiny_settings(tmp_path / "model", step_scale=0.005)


@pytest.fixture
def store(settings, monkeypatch):
    # an idle round has as many steps as a whole one, whatever the client's scale was
    def short(labeled, unlabeled, *, gpu, scale=1.0, continued=False):
        return make_plan(labeled, unlabeled, gpu=gpu, scale=scale / SHORTER, continued=continued)

    monkeypatch.setattr("uncol.training.fit.make_plan", short)
    return ModelStore(settings.model_dir)


@pytest.fixture
def first(cases, settings, store):
    return train_round(cases, replace(settings, step_scale=1.0), Reporter())


def let_gate(monkeypatch, *, publish):
    verdict = Verdict(published=publish, reason="as this test wants it", reference=1)
    monkeypatch.setattr("uncol.training.round._judged", lambda *given: ({}, verdict))


def test_each_idle_round_is_twice_as_long_as_the_one_before(
    first, cases, settings, store, monkeypatch
):
    let_gate(monkeypatch, publish=True)
    whole = store.manifest(1).plan.steps
    for number, times in ((2, 1), (3, 2), (4, 4)):
        outcome = train_idle(cases, settings, Reporter())
        assert outcome.served == number
        made = store.manifest(number)
        assert made.idle
        assert made.parent.version == number - 1
        assert made.plan.steps == pytest.approx(times * whole, abs=times)


def test_a_refused_idle_round_is_the_last_until_something_changes(
    first, cases, settings, store, monkeypatch
):
    let_gate(monkeypatch, publish=False)
    outcome = train_idle(cases, settings, Reporter())
    assert (outcome.version, outcome.served) == (2, 1)
    why = train_idle(cases, settings, Reporter())
    assert why == "version 2 went on from version 1 on these labels already"
    assert store.versions() == [1, 2]
    # who presses Train goes on from what is served: it was not worse, only no better
    monkeypatch.undo()
    train_round(cases, settings, Reporter())
    assert store.manifest(3).start == "Goes on from version 1."


def test_new_labels_wait_for_train(first, cases, settings, store, monkeypatch):
    let_gate(monkeypatch, publish=False)
    sides = store.folder.split.read_bytes()
    more = [replace(c, label=cases[0].label) if c.label is None else c for c in cases]
    outcome = train_idle(more, settings, Reporter())
    assert store.folder.split.read_bytes() == sides  # it decides on nothing
    made = store.manifest(outcome.version)
    assert made.label_digests == store.manifest(1).label_digests
    assert {c.name for c in more[LABELED:]}.isdisjoint(made.cases["unlabeled"])
    assert "already" in train_idle(more, settings, Reporter())


def test_it_leaves_a_stopped_training_its_checkpoint(first, cases, settings, store):
    kept = checkpoint_in(store.folder.runs)
    kept.write_bytes(b"of the training that was stopped")
    assert "can still be resumed by Train" in train_idle(cases, settings, Reporter())
    kept.unlink()
    store.folder.training_request.write_text("{}")
    assert "can still be resumed by Train" in train_idle(cases, settings, Reporter())


def test_who_goes_back_meanwhile_is_not_overruled(first, cases, settings, store, monkeypatch):
    let_gate(monkeypatch, publish=True)
    train_idle(cases, settings, Reporter())

    class GoesBack(Reporter):
        def phase(self, text):
            if text.startswith("judging"):
                store.rollback(1)

    outcome = train_idle(cases, settings, GoesBack())
    assert outcome.version == 3
    assert not outcome.verdict.published
    assert outcome.served == store.current() == 1


def test_the_calibration_after_an_idle_round_takes_no_longer(
    first, cases, settings, store, monkeypatch
):
    let_gate(monkeypatch, publish=True)
    idle = store.manifest(train_idle(cases, settings, Reporter()).version)
    asked = store.manifest(1)
    assert idle.options.step_scale == pytest.approx(4)
    assert whole_steps(idle) == whole_steps(asked) == make_plan(10, 2, gpu=False).steps


def test_without_held_out_cases_there_is_none(tmp_path, cases, settings, store):
    few = [*cases[:4], cases[-1]]
    train_round(few, settings, Reporter())
    assert "below 10 labeled cases" in train_idle(few, settings, Reporter())


def test_before_the_first_round_there_is_none(cases, settings, store):
    assert train_idle(cases, settings, Reporter()) == "no version is served yet"


def test_changed_labels_are_for_train_to_learn(first, cases, settings, store):
    trained = store.manifest(1).cases["labeled"][0]
    other = next(one.label for one in cases if one.name != trained)
    changed = [replace(one, label=other) if one.name == trained else one for one in cases]
    why = train_idle(changed, settings, Reporter())
    assert f"changed or went: {trained}" in why
    assert "for Train to do" in why
    assert store.versions() == [1]


def test_it_ends_after_the_paper_s_number_of_steps(first, cases, settings, store, monkeypatch):
    let_gate(monkeypatch, publish=True)
    whole = make_plan(10, 2, gpu=False).steps
    steps = store.manifest(1).plan.steps
    monkeypatch.setattr("uncol.training.idle.MOST_STEPS", whole + steps)
    train_idle(cases, settings, Reporter())
    train_idle(cases, settings, Reporter())  # what is left: as long as the first, not twice
    assert store.manifest(3).plan.steps == pytest.approx(steps, abs=2)
    monkeypatch.setattr("uncol.training.idle.MOST_STEPS", whole)
    assert "has learned for" in train_idle(cases, settings, Reporter())


def test_an_idle_version_can_be_trained_again(first, cases, settings, store, monkeypatch):
    let_gate(monkeypatch, publish=True)
    train_idle(cases, settings, Reporter())
    found = verify(store, 2, cases, {}, settings, Reporter(), retrain=True)
    assert found.weights == 0
