"""What a round starts from: the served version where labels were only added, or random weights."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from uncol.data.cases import Case, Pool
from uncol.errors import RequestError
from uncol.training.fit import NEW_AGAIN, fit
from uncol.training.plan import make_plan
from uncol.training.reporter import Reporter
from uncol.training.round import train_round
from uncol.training.start import origin_of, served_origin
from uncol.training.verify import verify
from uncol.versions.manifest import Verdict
from uncol.versions.store import ModelStore

SHAPE = (24, 24, 16)
LABELED = 4


def write(path, array, *, spacing=1.0):
    nib.save(nib.Nifti1Image(array, np.diag([spacing, spacing, spacing, 1])), path)
    return path


def ball(number):
    axes = np.indices(SHAPE) - np.array([9 + number % 5, 10, 8])[:, None, None, None]
    return ((axes**2).sum(axis=0) < 25).astype(np.uint8)


def scan(number):
    noise = np.random.default_rng(number).normal(size=SHAPE)
    return (ball(number) * 4 + noise).astype(np.float32)


def case(folder, number, *, annotated=True):
    image = write(folder / f"c{number:02d}.nii.gz", scan(number))
    path = write(folder / f"c{number:02d}_label.nii.gz", ball(number))
    return Case(f"c{number:02d}", image, path if annotated else None)


def cases(folder, annotated, *, total=6):
    return [case(folder, number, annotated=number < annotated) for number in range(total)]


@pytest.fixture
def settings(tmp_path, tiny_settings):
    return tiny_settings(tmp_path / "model", step_scale=0.005)


@pytest.fixture
def store(settings):
    return ModelStore(settings.model_dir)


@pytest.fixture
def first(tmp_path, settings):
    """The first version, of four labels."""
    return train_round(cases(tmp_path, LABELED), settings, Reporter())


def test_the_first_round_begins_with_random_weights(first, store):
    assert first.start == "Begins with random weights: no version is served yet."
    assert store.manifest(1).parent is None


def test_a_round_goes_on_where_labels_were_only_added(first, tmp_path, settings, store):
    outcome = train_round(cases(tmp_path, LABELED + 1), settings, Reporter())
    assert outcome.start == "Goes on from version 1."
    made = store.manifest(outcome.version)
    assert made.parent.version == 1
    assert made.start == outcome.start
    whole = make_plan(LABELED + 1, 1, gpu=False, scale=settings.step_scale)
    assert made.plan.steps == pytest.approx(whole.steps / 4, abs=1)


def test_one_press_more_without_a_new_label_goes_on_as_well(first, tmp_path, settings):
    again = train_round(cases(tmp_path, LABELED), settings, Reporter())
    assert again.start == "Goes on from version 1."


def test_a_round_that_goes_on_begins_with_the_served_weights(first, tmp_path, settings, store):
    trainer = begun(tmp_path, settings, store).trainer
    weights = store.load(1)[0].state_dict()
    for network in (trainer.state.student, trainer.state.specialist):
        for name, value in network.state_dict().items():
            assert torch.equal(value, weights[name]), name


def test_new_cases_are_drawn_more_often(first, tmp_path, settings, store):
    drawn = [one.name for one in begun(tmp_path, settings, store).trainer.data.labeled]
    assert {name: drawn.count(name) for name in drawn} == {
        **{f"c{number:02d}": 1 for number in range(LABELED)},
        "c04": 1 + NEW_AGAIN,
    }


def begun(folder, settings, store):
    """A run on one label more that has begun; `fit` would train it to its end."""
    pool = pool_of(cases(folder, LABELED + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uncol.training.fit.train", lambda begun, reporter: begun)
        return fit(pool, settings, Reporter(), store.folder.runs, served_origin(store, settings))


def pool_of(some):
    return Pool(
        tuple(one for one in some if one.label is not None),
        tuple(one for one in some if one.label is None),
        (),
    )


def changed_label(folder, pool, settings):
    write(folder / "c00_label.nii.gz", np.roll(ball(0), 3, axis=0))
    return pool, settings, "changed or went: c00"


def removed_label(folder, pool, settings):
    return [replace(pool[0], label=None), *pool[1:]], settings, "changed or went: c00"


def removed_case(folder, pool, settings):
    return pool[1:], settings, "changed or went: c00"


def changed_scan(folder, pool, settings):
    write(folder / "c00.nii.gz", scan(100))
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
        write(folder / f"c{number:02d}.nii.gz", scan(number), spacing=2.0)
        write(folder / f"c{number:02d}_label.nii.gz", ball(number), spacing=2.0)
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
    first, change, tmp_path, settings, store
):
    pool, asked, why = change(tmp_path, cases(tmp_path, LABELED), settings)
    outcome = train_round(pool, asked, Reporter())
    assert outcome.start.startswith("Begins with random weights: ")
    assert why in outcome.start
    assert store.manifest(outcome.version).parent is None


def test_scans_of_nearly_the_same_voxel_size_do_not_matter(first, tmp_path, settings, store):
    pool = cases(tmp_path, LABELED)
    for number in range(LABELED, 12):
        image = write(tmp_path / f"c{number:02d}.nii.gz", scan(number), spacing=1.1)
        pool = [one for one in pool if one.name != f"c{number:02d}"]
        pool.append(Case(f"c{number:02d}", image, None))
    outcome = train_round(pool, settings, Reporter())
    assert outcome.start == "Goes on from version 1."
    assert store.manifest(2).spacing_mm == store.manifest(1).spacing_mm


def test_a_damaged_served_version_is_not_gone_on_from(first, tmp_path, settings, store):
    store.folder.weights(1).write_bytes(b"damaged")
    outcome = train_round(cases(tmp_path, LABELED), settings, Reporter())
    assert "Weights of model version 1 cannot be read" in outcome.start
    assert outcome.served == 2


def refuse_children(monkeypatch, store):
    """Let the gate refuse every version that went on from another."""

    def judged(candidate, held_out, store, settings):
        goes_on = candidate.manifest.parent is not None
        return {}, Verdict(published=not goes_on, reason="as this test wants it", reference=1)

    monkeypatch.setattr("uncol.training.round._judged", judged)


def test_a_worse_student_that_went_on_is_followed_by_one_from_random_weights(
    first, tmp_path, settings, store, monkeypatch
):
    refuse_children(monkeypatch, store)
    outcome = train_round(cases(tmp_path, LABELED + 1), settings, Reporter())
    assert outcome.version == outcome.served == 3
    assert outcome.start == (
        "Begins with random weights: version 2, which went on from version 1, was worse than it."
    )
    assert store.manifest(2).parent.version == 1
    assert not store.manifest(2).gate.published
    assert store.manifest(3).parent is None
    monkeypatch.undo()
    later = train_round(cases(tmp_path, LABELED + 1), settings, Reporter())
    assert later.start == "Goes on from version 3."


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
    first, tmp_path, settings, store, monkeypatch
):
    pool = pool_of(cases(tmp_path, LABELED + 1))
    longer = replace(settings, step_scale=0.05)
    origin = served_origin(store, longer)
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


def test_a_version_that_went_on_can_be_trained_again(first, tmp_path, settings, store):
    pool = cases(tmp_path, LABELED + 1)
    train_round(pool, settings, Reporter())
    found = verify(store, 2, pool, {}, settings, Reporter(), retrain=True)
    assert found.weights == 0


def test_without_its_parent_a_version_cannot_be_trained_again(first, tmp_path, settings, store):
    pool = cases(tmp_path, LABELED + 1)
    train_round(pool, settings, Reporter())
    train_round(pool, settings, Reporter())
    assert store.gc(0) == [1]  # the served one's parent stays
    assert origin_of(store, store.manifest(3)).manifest.version == 2
    with pytest.raises(RequestError, match="version 1, which was deleted"):
        verify(store, 2, pool, {}, settings, Reporter(), retrain=True)


def test_a_parent_whose_weights_were_replaced_is_noticed(first, tmp_path, settings, store):
    pool = cases(tmp_path, LABELED + 1)
    train_round(pool, settings, Reporter())
    store.folder.weights(1).write_bytes(store.folder.weights(2).read_bytes())
    with pytest.raises(RequestError, match="have changed since"):
        verify(store, 2, pool, {}, settings, Reporter(), retrain=True)
