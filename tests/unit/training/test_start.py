"""What a round starts from: the served version where labels were only added, or random weights."""

from dataclasses import replace

import pytest
import torch
from balls import ball_case

from uncol.data.cases import Pool
from uncol.errors import RequestError
from uncol.training.fit import NEW_AGAIN, fit
from uncol.training.plan import make_plan
from uncol.training.reporter import Reporter
from uncol.training.round import train_round
from uncol.training.start import origin_of, served_origin
from uncol.training.verify import verify
from uncol.versions.manifest import Verdict
from uncol.versions.store import ModelStore

LABELED = 4
TOTAL = 6


@pytest.fixture
def cases(tmp_path):
    """Makes pools of six cases, of which the first ones are annotated."""
    return lambda annotated: [ball_case(tmp_path, n, annotated=n < annotated) for n in range(TOTAL)]


@pytest.fixture
def settings(tmp_path, tiny_settings):
    return tiny_settings(tmp_path / "model", step_scale=0.005)


@pytest.fixture
def store(settings):
    return ModelStore(settings.model_dir)


@pytest.fixture
def first(cases, settings):
    """The first version, of four labels."""
    return train_round(cases(LABELED), settings, Reporter())


def test_the_first_round_begins_with_random_weights(first, store):
    assert first.start == "Begins with random weights: no version is served yet."
    assert store.manifest(1).parent is None


def test_a_round_goes_on_where_labels_were_only_added(first, cases, settings, store):
    outcome = train_round(cases(LABELED + 1), settings, Reporter())
    assert outcome.start == "Goes on from version 1."
    made = store.manifest(outcome.version)
    assert made.parent.version == 1
    assert made.start == outcome.start
    whole = make_plan(LABELED + 1, 1, gpu=False, scale=settings.step_scale)
    assert made.plan.steps == pytest.approx(whole.steps / 4, abs=1)


def test_one_press_more_without_a_new_label_goes_on_as_well(first, cases, settings):
    again = train_round(cases(LABELED), settings, Reporter())
    assert again.start == "Goes on from version 1."


def test_a_round_that_goes_on_begins_with_the_served_weights(first, cases, settings, store):
    trainer = begun(cases, settings, store).trainer
    weights = store.load(1)[0].state_dict()
    for network in (trainer.state.student, trainer.state.specialist):
        for name, value in network.state_dict().items():
            assert torch.equal(value, weights[name]), name


def test_new_cases_are_drawn_more_often(first, cases, settings, store):
    drawn = [one.name for one in begun(cases, settings, store).trainer.data.labeled]
    assert {name: drawn.count(name) for name in drawn} == {
        **{f"c{number:02d}": 1 for number in range(LABELED)},
        "c04": 1 + NEW_AGAIN,
    }


def begun(cases, settings, store):
    """A run on one label more that has begun; `fit` would train it to its end."""
    pool = pool_of(cases(LABELED + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uncol.training.fit.train", lambda begun, reporter: begun)
        return fit(
            pool, settings, Reporter(), store.folder.runs, served_origin(store, pool, settings)
        )


def pool_of(some):
    return Pool(
        tuple(one for one in some if one.label is not None),
        tuple(one for one in some if one.label is None),
        (),
    )


def changed_label(folder, pool, settings):
    ball_case(folder, 0, moved=3)
    return pool, settings, "changed or went: c00"


def removed_label(folder, pool, settings):
    return [replace(pool[0], label=None), *pool[1:]], settings, "changed or went: c00"


def removed_case(folder, pool, settings):
    return pool[1:], settings, "changed or went: c00"


def changed_scan(folder, pool, settings):
    ball_case(folder, 0, shown=100)
    return pool, settings, "changed or went: c00"


def other_labels(folder, pool, settings):
    return pool, replace(settings, labels={"sphere": 1}), "setting 'labels'"


def other_modality(folder, pool, settings):
    return pool, replace(settings, modality="ct"), "setting 'modality'"


def other_network(folder, pool, settings):
    return pool, replace(settings, preset="small3d"), "another network"


def the_released_code(folder, pool, settings):
    return pool, replace(settings, mode="release"), "as the authors' code does"


def not_wanted(folder, pool, settings):
    return pool, replace(settings, pretrained=False), "the option pretrained is off"


def other_voxels(folder, pool, settings):
    for number in range(len(pool)):
        ball_case(folder, number, spacing=2.0)
    return pool, settings, "voxels are of another size"


@pytest.mark.parametrize(
    "change",
    [
        changed_label,
        removed_label,
        removed_case,
        changed_scan,
        other_labels,
        other_modality,
        other_network,
        the_released_code,
        not_wanted,
        other_voxels,
    ],
)
def test_what_else_changed_lets_a_round_begin_with_random_weights(
    first, change, cases, tmp_path, settings, store
):
    pool, asked, why = change(tmp_path, cases(LABELED), settings)
    outcome = train_round(pool, asked, Reporter())
    assert outcome.start.startswith("Begins with random weights: ")
    assert why in outcome.start
    assert store.manifest(outcome.version).parent is None


def test_scans_of_nearly_the_same_voxel_size_do_not_matter(first, cases, tmp_path, settings, store):
    finer = [
        ball_case(tmp_path, n, annotated=False, spacing=1.1) for n in range(LABELED, 3 * LABELED)
    ]
    pool = [*cases(LABELED)[:LABELED], *finer]
    outcome = train_round(pool, settings, Reporter())
    assert outcome.start == "Goes on from version 1."
    assert store.manifest(2).spacing_mm == store.manifest(1).spacing_mm


def test_a_damaged_served_version_is_not_gone_on_from(first, cases, settings, store):
    store.folder.weights(1).write_bytes(b"damaged")
    outcome = train_round(cases(LABELED), settings, Reporter())
    assert "Weights of model version 1 cannot be read" in outcome.start
    assert outcome.served == 2


def refuse_children(monkeypatch, store):
    """Let the gate refuse every version that went on from another."""

    def judged(candidate, held_out, store, settings):
        goes_on = candidate.manifest.parent is not None
        return {}, Verdict(published=not goes_on, reason="as this test wants it", reference=1)

    monkeypatch.setattr("uncol.training.round._judged", judged)


def test_a_worse_student_that_went_on_is_followed_by_one_from_random_weights(
    first, cases, settings, store, monkeypatch
):
    refuse_children(monkeypatch, store)
    outcome = train_round(cases(LABELED + 1), settings, Reporter())
    assert outcome.version == outcome.served == 3
    assert outcome.start == (
        "Begins with random weights: version 2, which went on from version 1, was worse than it."
    )
    assert store.manifest(2).parent.version == 1
    assert not store.manifest(2).gate.published
    assert store.manifest(3).parent is None
    monkeypatch.undo()
    later = train_round(cases(LABELED + 1), settings, Reporter())
    assert later.start == "Goes on from version 3."


def test_where_all_were_refused_the_next_label_is_a_new_chance(
    first, cases, settings, store, monkeypatch
):
    verdict = Verdict(published=False, reason="as this test wants it", reference=1)
    monkeypatch.setattr("uncol.training.round._judged", lambda *given: ({}, verdict))
    assert train_round(cases(LABELED), settings, Reporter()).version == 3
    train_round(cases(LABELED), settings, Reporter())
    assert store.manifest(4).parent is None  # on the same labels it was tried
    train_round(cases(LABELED + 1), settings, Reporter())
    assert store.manifest(5).parent.version == 1


class StoppedError(Exception):
    pass


class StopsAt(Reporter):
    """Ends a run as a kill does, after a step of which the checkpoint is kept."""

    def __init__(self, number):
        self.number = number

    def step(self, step):
        if step.number == self.number:
            raise StoppedError


def test_a_killed_round_that_went_on_resumes_to_the_last_bit(
    first, tmp_path, cases, settings, store, monkeypatch
):
    pool = pool_of(cases(LABELED + 1))
    longer = replace(settings, step_scale=0.05)
    origin = served_origin(store, pool, longer)
    straight = fit(pool, longer, Reporter(), tmp_path / "straight", origin).student
    monkeypatch.setattr("uncol.training.checkpoint.CHECKPOINT_EVERY_S", 0.0)
    with pytest.raises(StoppedError):
        fit(pool, longer, StopsAt(7), tmp_path / "killed", origin)
    steps = []
    monkeypatch.setattr(Reporter, "step", lambda self, step: steps.append(step.number))
    resumed = fit(pool, longer, Reporter(), tmp_path / "killed", origin).student
    assert steps[0] == 7
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_version_that_went_on_can_be_trained_again(first, cases, settings, store):
    pool = cases(LABELED + 1)
    train_round(pool, settings, Reporter())
    found = verify(store, 2, pool, {}, settings, Reporter(), retrain=True)
    assert found.weights == 0


def test_without_its_parent_a_version_cannot_be_trained_again(first, cases, settings, store):
    pool = cases(LABELED + 1)
    train_round(pool, settings, Reporter())
    train_round(pool, settings, Reporter())
    assert store.gc(0) == [1]  # the served one's parent stays
    assert origin_of(store, store.manifest(3)).manifest.version == 2
    with pytest.raises(RequestError, match="version 1, which was deleted"):
        verify(store, 2, pool, {}, settings, Reporter(), retrain=True)


def test_a_parent_whose_weights_were_replaced_is_noticed(first, cases, settings, store):
    pool = cases(LABELED + 1)
    train_round(pool, settings, Reporter())
    store.folder.weights(1).write_bytes(store.folder.weights(2).read_bytes())
    with pytest.raises(RequestError, match="have changed since"):
        verify(store, 2, pool, {}, settings, Reporter(), retrain=True)
