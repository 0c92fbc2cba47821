"""The differences of the released code that show in a training run (docs/method.md 2.6)."""

import copy
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from uncol.data.cases import Case, decide
from uncol.method.recipe import INTENDED, RECIPES
from uncol.training.presets import PRESETS
from uncol.training.reporter import Reporter
from uncol.training.round import train_round
from uncol.versions.store import ModelStore

BOTH = pytest.mark.parametrize("mode", ["intended", "release"])


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@BOTH
def test_difference_01_the_specialist_follows_the_student_in_stage_2_too(make_trainer, mode):
    trainer = make_trainer(mode=mode, steps=(1, 2))
    start = weights(trainer.state.specialist)
    after = {1: None, 2: None}
    for step in trainer.run():
        after[step.stage] = weights(trainer.state.specialist)
    assert not torch.equal(start, after[1])  # both follow it in stage 1
    assert torch.equal(after[1], after[2]) == (mode == "release")


@BOTH
def test_difference_03_the_switch_reaches_stage_1(make_trainer, mode):
    trainer = make_trainer(mode="intended", steps=(1, 1))
    expected = next(iter(trainer.run())).losses["supervised"]
    twice = RECIPES[mode].softmax_twice_in_dice
    recipe = replace(INTENDED, softmax_twice_in_dice=twice)
    trainer = make_trainer(recipe=recipe, steps=(1, 1))
    found = next(iter(trainer.run())).losses["supervised"]
    assert (found == pytest.approx(expected, rel=1e-6)) == (mode == "intended")


@pytest.fixture
def pool(tmp_path, make_ball):
    """Twelve annotated scans of 8 voxels per side and one that is not."""
    cases = []
    for number in range(13):
        name = f"scan{number}"
        label = make_ball((8, 8, 8), (4, 4, 3 + number % 3), 2).astype(np.uint8)
        noise = np.random.default_rng(number).normal(size=(8, 8, 8))
        for kind, array in (("image", (label * 5 + noise).astype(np.float32)), ("label", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), str(tmp_path / f"{name}_{kind}.nii.gz"))
        labeled = tmp_path / f"{name}_label.nii.gz" if number < 12 else None
        cases.append(Case(name, tmp_path / f"{name}_image.nii.gz", labeled))
    return cases


def test_difference_08_held_out_cases_judge_and_never_train(
    pool, tmp_path, monkeypatch, tiny_settings
):
    drawn = set()
    from uncol.training.batches import CropSource

    draw = CropSource.draw

    def listening(self, count, **options):
        made = draw(self, count, **options)
        drawn.update(made.names)
        return made

    monkeypatch.setattr(CropSource, "draw", listening)
    sides = decide([case.name for case in pool[:12]], {})
    held_out = {name for name, side in sides.items() if side == "held_out"}
    assert len(held_out) == 2

    def train(folder):
        settings = tiny_settings(tmp_path / folder, labels={"target": 1}, step_scale=0.005)
        outcome = train_round(pool, settings, Reporter())
        student, manifest = ModelStore(tmp_path / folder).load(outcome.version)
        return weights(student), manifest

    first, manifest = train("first")
    assert len(drawn) > 5
    assert drawn <= {case.name for case in pool} - held_out
    assert set(manifest.cases["held_out"]) == held_out
    assert not held_out & {*manifest.cases["labeled"], *manifest.cases["unlabeled"]}
    for case in pool:
        if case.name in held_out:  # other voxels, other annotation: the same student
            turned = np.asanyarray(nib.load(case.image).dataobj)[::-1] * 2
            nib.save(nib.Nifti1Image(turned, np.eye(4)), str(case.image))
            inverted = 1 - np.asanyarray(nib.load(case.label).dataobj)
            nib.save(nib.Nifti1Image(inverted, np.eye(4)), str(case.label))
    second, changed = train("second")
    assert torch.equal(first, second)
    assert manifest.accuracy.dice != changed.accuracy.dice


@BOTH
@pytest.mark.parametrize("labels", [1, 2, 3])
def test_difference_10_a_2d_student_trains_with_any_number_of_labels(
    make_trainer, stub_model, make_generalist, labels, mode
):
    generalist = make_generalist(stub_model(2), mode=mode)
    trainer = make_trainer(dims=2, labels=labels, mode=mode, generalist=generalist, steps=(1, 1))
    before = weights(trainer.state.student)
    steps = list(trainer.run())
    assert all(math.isfinite(value) for step in steps for value in step.losses.values())
    assert not torch.equal(before, weights(trainer.state.student))


@BOTH
def test_difference_11_the_specialist_judges_in_evaluation_mode_with_statistics_of_its_own(
    make_trainer, mode
):
    trainer = make_trainer(dims=2, mode=mode, steps=(2, 2))
    trained = []
    trainer.state.specialist.register_forward_hook(
        lambda module, *_: trained.append(module.training)
    )
    states = []
    for step in trainer.run():
        states.append((step.stage, copy.deepcopy(dict(trainer.state.specialist.named_buffers()))))
    own = states[1][1]  # after stage 1
    learned = dict(trainer.state.student.named_buffers())
    means = [name for name in learned if name.endswith("running_mean")]
    if mode == "intended":
        assert trained.count(False) == 2  # steps; statistics are fit in training mode
        again = copy.deepcopy(dict(trainer.state.specialist.named_buffers()))
        assert all(not torch.equal(again[name], own[name]) for name in means)
        trainer.fit_statistics()
        refit = dict(trainer.state.specialist.named_buffers())
        assert all(torch.equal(again[name], refit[name]) for name in means)  # to the last weights
    else:
        assert trained == [True, True]
        assert all(float(own[name].abs().max()) == 0 for name in means)  # as initialized
        assert any(not torch.equal(states[-1][1][name], learned[name]) for name in means)


@pytest.mark.parametrize(
    ("preset", "mode", "stage", "kind", "rate"),
    [
        ("paper2d", "intended", 1, torch.optim.SGD, 0.01),
        ("paper2d", "intended", 2, torch.optim.SGD, 0.01 * 0.5**0.9),  # of one cycle of two steps
        ("paper2d", "release", 1, torch.optim.SGD, 0.01),
        ("paper2d", "release", 2, torch.optim.AdamW, 0.01),
        ("paper3d", "intended", 2, torch.optim.SGD, 0.01 * 0.5**0.9),
        ("paper3d", "release", 2, torch.optim.SGD, 0.01),
    ],
)
def test_difference_12_2d_stage_2_keeps_the_optimizer_its_rate_is_meant_for(
    make_trainer, tiny_preset, monkeypatch, preset, mode, stage, kind, rate
):
    paper = PRESETS[preset]
    tiny = tiny_preset(paper.spec.dims, optimizer=paper.optimizer, rate=paper.rate)
    made = []
    for name in ("SGD", "AdamW"):
        original = getattr(torch.optim, name)
        monkeypatch.setattr(
            torch.optim, name, lambda *a, make=original, **n: made.append(make(*a, **n)) or made[-1]
        )
    trainer = make_trainer(dims=paper.spec.dims, preset=tiny, mode=mode, steps=(1, 1))
    used = {step.stage: (type(made[-1]), made[-1].param_groups[0]["lr"]) for step in trainer.run()}
    assert used[stage] == (kind, pytest.approx(rate))


@pytest.mark.parametrize(("dims", "views"), [(2, 4), (3, 1)])
def test_difference_13_each_view_is_encoded_once_however_often_it_is_used(
    make_trainer, stub_model, make_generalist, dims, views
):
    model = stub_model(dims)
    trainer = make_trainer(generalist=make_generalist(model), steps=(2, 4), prompt_every=1, views=4)
    list(trainer.run())
    assert len(model.encoded) == 2 * views  # an annotated and an unlabeled case
    assert len(model.prompted) > 2 * views
    again = stub_model(dims)  # the next round finds them on disk
    list(make_trainer(generalist=make_generalist(again), steps=(1, 1), views=4).run())
    assert again.encoded == []
