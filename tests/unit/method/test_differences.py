"""The differences of the released code (docs/method.md section 2.6), by their numbers.

Each shows what is intended and, where the recipe has a switch, what `release` reproduces.
"""

import copy
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from uncol.data.cases import Case, decide
from uncol.data.crops import CropMap
from uncol.generalist.letterbox import Letterbox
from uncol.generalist.models.protocol import Prompted
from uncol.generalist.prompting import CLICKS, prompt_view
from uncol.generalist.prompts import certain_clicks
from uncol.method import losses, schedules
from uncol.method.fusion import fuse, generalist_probs
from uncol.method.mixing import copy_paste_mask, mix
from uncol.method.recipe import INTENDED, RECIPES
from uncol.training.presets import PRESETS
from uncol.training.reporter import Reporter
from uncol.training.round import train_round
from uncol.uncertainty.maps import entropy
from uncol.versions import metrics as evaluate
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
def test_difference_02_a_sure_generalist_stays_sure_and_passes_the_gate(mode):
    squash = RECIPES[mode].softmax_over_probabilities
    saturated = torch.ones(1, 1, 1, 1, 1)
    probs = generalist_probs(saturated, softmax_over_probabilities=squash)
    unsure = float(entropy(probs))
    anywhere = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    undecided = torch.full((1, 2, 1, 1, 1), 0.5)

    def passes(step):
        tau = schedules.trust_threshold(step, 15_000)
        return fuse(undecided, probs, anywhere, threshold=tau).generalist.item()

    if mode == "intended":
        assert float(probs.max()) == pytest.approx(1, abs=1e-6)
        assert passes(0)
    else:
        assert float(probs.max()) == pytest.approx(0.731, abs=1e-3)  # e / (1 + e)
        assert unsure == pytest.approx(0.840, abs=1e-3)
        assert not passes(8200)
        assert passes(8230)  # 55 % of the steps


@pytest.mark.parametrize(("classes", "unsure", "first"), [(3, 0.888, 9823), (5, 0.932, 11225)])
def test_difference_02_with_more_classes_the_released_gate_opens_later_still(
    classes, unsure, first
):
    foreground = torch.zeros(1, classes - 1, 1, 1, 1)
    foreground[:, 0] = 1
    level = float(entropy(generalist_probs(foreground, softmax_over_probabilities=True)))
    assert level == pytest.approx(unsure, abs=1e-3)
    opens = next(t for t in range(15_000) if schedules.trust_threshold(t, 15_000) >= level)
    assert opens == pytest.approx(first, abs=15)


@BOTH
def test_difference_03_a_perfect_prediction_has_a_perfect_dice(mode):
    label = torch.zeros(1, 10, 1, 1, dtype=torch.long)
    label[0, 0] = 1
    logits = torch.nn.functional.one_hot(label, 2).movedim(-1, 1).float() * 60 - 30
    counts = torch.ones_like(label, dtype=torch.bool)
    loss = losses.dice(logits, label, counts, softmax_twice=RECIPES[mode].softmax_twice_in_dice)
    # squashed again, right voxels have 0.731: foreground 1 - 2 * 0.731 / (0.731 + 9 * 0.269 + 1),
    # background 1 - 2 * 9 * 0.731 / (9 * 0.731 + 0.269 + 9), mean 0.409
    assert float(loss) == pytest.approx(0 if mode == "intended" else 0.409, abs=1e-3)


@BOTH
def test_difference_03_the_switch_reaches_stage_1(make_trainer, mode):
    trainer = make_trainer(mode="intended", steps=(1, 1))
    expected = next(iter(trainer.run())).losses["supervised"]
    twice = RECIPES[mode].softmax_twice_in_dice
    recipe = replace(INTENDED, softmax_twice_in_dice=twice)
    trainer = make_trainer(recipe=recipe, steps=(1, 1))
    found = next(iter(trainer.run())).losses["supervised"]
    assert (found == pytest.approx(expected, rel=1e-6)) == (mode == "intended")


@BOTH
def test_difference_04_sure_clicks_read_the_entropy_map_where_the_voxel_is(mode):
    mask = torch.zeros(16, 16, 16, dtype=torch.bool)
    mask[8:15, 8:15, 8:15] = True
    uncertainty = torch.full((16, 16, 16), 0.5)
    uncertainty[12, 13, 14] = 0.01
    uncertainty[9, 9, 9] = 0.02
    uncertainty[0, 11, 9] = 0.0  # what [i, channel, x, y] reads for the voxel (11, 9, z)
    clicks, kinds = certain_clicks(mask, uncertainty, CLICKS, released=RECIPES[mode].shifted_clicks)
    assert kinds.tolist() == [1] * CLICKS
    if mode == "intended":
        assert clicks[:2].tolist() == [[12, 13, 14], [9, 9, 9]]
        assert len(clicks.unique(dim=0)) == CLICKS
    else:
        assert clicks.tolist() == [[11, 9, 8]] * CLICKS


def prompt_two_classes(model, targets, mode):
    return prompt_view(
        model,
        torch.zeros(1, 6, 4, 4, 4),
        targets,
        Letterbox((16, 16, 16), (1.0, 1.0, 1.0), 16),
        uncertainty=None,
        recipe=RECIPES[mode],
        generator=np.random.default_rng(0),
    )


@BOTH
def test_difference_05_the_mask_memory_starts_anew_for_each_class(stub_model, make_ball, mode):
    answers = []

    class Remembering(stub_model):
        def prompt(self, image, prompts):
            answers.append(super().prompt(image, prompts))
            return answers[-1]

    model = Remembering(3)
    balls = [make_ball((16, 16, 16), (8, 8, k), 5) for k in (4, 11)]
    prompt_two_classes(model, balls, mode)
    starts = [n for n, p in enumerate(model.prompted) if p.clicks.shape[1] == 1]
    first, second = starts
    assert model.prompted[first].memory is None
    if mode == "intended":
        assert model.prompted[second].memory is None
    else:
        assert model.prompted[second].memory is answers[second - 1].logits


@BOTH
def test_difference_05_a_mask_is_where_logits_are_positive(stub_model, make_ball, mode):
    ball = make_ball((16, 16, 16), (8, 8, 8), 5)

    class Hesitant(stub_model):
        """Right everywhere, by logits of 0.3: under the 0.5 that the released code takes."""

        def prompt(self, image, prompts):
            self.prompted.append(prompts)
            logits = torch.from_numpy(ball).float() * 0.6 - 0.3
            return Prompted(logits[None], image, torch.ones(1))

    model = Hesitant(3)
    prompt_two_classes(model, [ball], mode)
    assert len(model.prompted) == (1 if mode == "intended" else CLICKS)


@BOTH
def test_difference_06_both_distillation_paths_see_the_same_intensities(
    stub_model, make_case, make_generalist, mode
):
    model = stub_model(3)
    case = make_case()
    case = replace(case, image=case.image * 30 + 7)
    generalist = make_generalist(model, mode=mode)
    generalist.look(case, 1)
    known = generalist.knowledge(
        case, CropMap((16,) * 3, torch.eye(3), torch.zeros(3)), (4,) * 3, semantic=False
    )
    raws = [raw for _, raw in model.encoded]
    assert raws == ([False] if mode == "intended" else [False, True])
    view = model.encoded[0][0]
    expected = model.encode(view, raw=mode == "release").hidden[0]
    assert torch.allclose(known.hidden[0], expected, rtol=0.01, atol=0.02)


def test_difference_07_each_crop_of_a_batch_has_a_block_of_its_own():
    masks = copy_paste_mask(8, (12, 12, 12), generator=torch.Generator().manual_seed(0))
    assert len(masks.flatten(1).unique(dim=0)) > 4


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_difference_07_masks_meet_their_own_crop_even_where_batch_equals_classes(batch):
    classes, shape = 3, (4, 4, 4)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, *shape, generator=generator)
    label = torch.randint(classes, (batch, *shape), generator=generator)
    mask = torch.rand(batch, *shape, generator=generator) > 0.5
    whole = losses.cross_entropy(logits, label, mask) * mask.sum()
    alone = [
        losses.cross_entropy(logits[n : n + 1], label[n : n + 1], mask[n : n + 1])
        for n in range(batch)
    ]
    assert torch.allclose(
        whole, sum(a * m.sum() for a, m in zip(alone, mask, strict=True)), rtol=1e-4
    )

    logits.requires_grad_()
    losses.dice_ce(logits, label, mask).backward()
    assert torch.equal(logits.grad.abs().sum(dim=1) > 0, mask)

    general = torch.randn(batch, classes, *shape, generator=generator).softmax(dim=1)
    special = logits.detach().softmax(dim=1)
    fused = fuse(special, general, mask, threshold=0.8)
    block = copy_paste_mask(batch, shape, generator=generator)
    mixed = mix(block, label, label + 10)
    for n in range(batch):
        one = slice(n, n + 1)
        single = fuse(special[one], general[one], mask[one], threshold=0.8)
        assert torch.equal(single.label, fused.label[one])
        assert torch.equal(single.generalist, fused.generalist[one])
        assert torch.equal(mixed[n] >= 10, block[n, 0] == 0)


@pytest.fixture
def pool(tmp_path, make_ball):
    """Twelve annotated scans of 8 voxels a side and one that is not."""
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
def test_difference_09_an_empty_mask_does_not_flatter_distances(mode):
    released = RECIPES[mode].empty_scores_zero
    empty = np.zeros((6, 6, 6), dtype=bool)
    full = empty.copy()
    full[2:4, 2:4, 2:4] = True
    for prediction, truth in ((empty, full), (full, empty)):
        found = evaluate.scores(prediction, truth, (1.0, 1.0, 1.0), released=released)
        assert found.dice == 0
        if released:
            assert found.hd95_mm == found.asd_mm == 0
        else:
            assert math.isnan(found.hd95_mm)
            assert math.isnan(found.asd_mm)


def test_difference_09_a_label_that_is_nowhere_takes_no_part_in_the_mean():
    truth = np.zeros((4, 4, 4), dtype=np.uint8)
    truth[0], truth[1] = 1, 2
    prediction = truth.copy()
    prediction[1, :2] = 0
    found = evaluate.dice_per_label(prediction, truth, {"a": 1, "b": 2, "c": 3})
    assert found["a"] == 1
    assert found["b"] == pytest.approx(2 * 8 / (8 + 16))
    assert math.isnan(found["c"])
    assert evaluate.mean_of(found) == pytest.approx((1 + 2 / 3) / 2)
    missed = evaluate.dice_per_label(np.zeros_like(truth), truth, {"a": 1})
    assert missed == {"a": 0.0}


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
def test_difference_11_the_specialist_judges_in_evaluation_mode_with_fresh_statistics(
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
        assert trained == [False, False]
        assert all(torch.equal(states[-1][1][name], learned[name]) for name in learned)
    else:
        assert trained == [True, True]
        assert all(float(own[name].abs().max()) == 0 for name in means)  # as it was born
        assert any(not torch.equal(states[-1][1][name], learned[name]) for name in means)


@pytest.mark.parametrize(
    ("preset", "mode", "stage", "kind", "rate"),
    [
        ("paper2d", "intended", 1, torch.optim.SGD, 0.01),
        ("paper2d", "intended", 2, torch.optim.SGD, 0.01),
        ("paper2d", "release", 1, torch.optim.SGD, 0.01),
        ("paper2d", "release", 2, torch.optim.AdamW, 0.01),
        ("paper3d", "intended", 2, torch.optim.SGD, 0.01),
        ("paper3d", "release", 2, torch.optim.SGD, 0.01),
    ],
)
def test_difference_12_2d_stage_2_keeps_the_optimizer_its_rate_is_meant_for(
    make_trainer, tiny_preset, monkeypatch, preset, mode, stage, kind, rate
):
    paper = PRESETS[preset]
    tiny = tiny_preset(paper.spec.dims, optimizer=paper.optimizer, rate=paper.rate)
    trainer = make_trainer(dims=paper.spec.dims, preset=tiny, mode=mode, steps=(1, 1))
    made = []
    for name in ("SGD", "AdamW"):
        original = getattr(torch.optim, name)
        monkeypatch.setattr(
            torch.optim, name, lambda *a, make=original, **n: made.append(make(*a, **n)) or made[-1]
        )
    rates = {step.stage: [group["lr"] for group in made[-1].param_groups] for step in trainer.run()}
    assert type(made[stage - 1]) is kind
    assert rates[stage] == [rate]


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


def test_difference_14_the_label_comes_from_the_gated_probabilities():
    # the specialist, unsure, leans to class 0 so far that the plain mixture follows it; only the
    # generalist passes the gate, and says class 1
    specialist = torch.tensor([0.70, 0.15, 0.15]).reshape(1, 3, 1, 1, 1)
    generalist = torch.tensor([0.45, 0.55, 0.00]).reshape(1, 3, 1, 1, 1)
    assert float(entropy(generalist)) < 0.7 < float(entropy(specialist))
    anywhere = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    assert fuse(specialist, generalist, anywhere, threshold=1.0).label.item() == 0
    gated = fuse(specialist, generalist, anywhere, threshold=0.7)
    assert gated.label.item() == 1
    assert gated.trusted.item()
