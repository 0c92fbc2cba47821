"""The differences of the released code (docs/method.md section 2.6), by their numbers.

Each shows what is intended and, where the recipe has a switch, what `release` reproduces.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from uncol.data.crops import CropMap
from uncol.generalist.letterbox import Letterbox
from uncol.generalist.models.protocol import Prompted
from uncol.generalist.prompting import CLICKS, prompt_view
from uncol.generalist.prompts import certain_clicks
from uncol.method import losses, schedules
from uncol.method.fusion import fuse, generalist_probs
from uncol.method.mixing import copy_paste_mask, mix
from uncol.method.recipe import RECIPES
from uncol.uncertainty.maps import entropy
from uncol.versions import metrics as evaluate

BOTH = pytest.mark.parametrize("mode", ["intended", "release"])


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
