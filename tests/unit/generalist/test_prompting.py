from dataclasses import replace

import numpy as np
import pytest
import torch

from uncol.generalist.letterbox import Letterbox
from uncol.generalist.prompting import CLICKS, class_masks, prompt_view
from uncol.method.recipe import INTENDED


def ask(model, targets, *, uncertainty=None, recipe=INTENDED, spacing=None):
    shape = targets[0].shape
    box = Letterbox(shape, spacing or (1.0,) * len(shape), model.side)
    return prompt_view(
        model,
        torch.randn(1, 6, *(4,) * model.dims, generator=torch.Generator().manual_seed(0)),
        targets,
        box,
        uncertainty=uncertainty,
        recipe=recipe,
        generator=np.random.default_rng(0),
    )


def test_each_class_keeps_its_largest_part():
    mask = torch.zeros(8, 8, dtype=torch.long)
    mask[0, 0] = mask[4:6, 4:6] = 1
    mask[7] = 2
    first, second, third = class_masks(mask, 4)
    assert (first.sum(), second.sum(), third.any()) == (4, 8, False)
    assert not first[0, 0]


def test_a_box_with_its_margin_goes_to_the_view(stub_model):
    model = stub_model(2)
    target = np.zeros((8, 16), dtype=bool)  # one voxel is one pixel
    target[2:5, 6:9] = True
    ask(model, [target])
    margin = 16 * 20 / 1024
    expected = [2 - margin, 6 - margin, 5 + margin, 9 + margin]
    assert model.prompted[0].boxes[0].tolist() == pytest.approx(expected)


def test_what_the_box_finds_comes_back_where_the_mask_was(stub_model):
    target = np.zeros((8, 16), dtype=bool)
    target[2:5, 6:9] = True
    answer = ask(stub_model(2), [target])
    np.testing.assert_array_equal(answer.probs[0].numpy() > 0.5, target)


def test_anisotropic_pixels_do_not_move_the_mask(stub_model):
    target = np.zeros((8, 4), dtype=bool)
    target[2:6, 1:3] = True
    answer = ask(stub_model(2), [target], spacing=(1.0, 4.0))
    found = answer.probs[0].numpy() > 0.5
    assert 2 * (found & target).sum() / (found.sum() + target.sum()) > 0.8


def test_an_absent_class_is_not_prompted_and_has_no_probability(stub_model):
    model = stub_model(2)
    present = np.zeros((8, 8), dtype=bool)
    present[2:5, 2:5] = True
    answer = ask(model, [np.zeros_like(present), present])
    assert len(model.prompted) == 1
    assert float(answer.probs[0].max()) == 0
    assert float(answer.tokens[:6].abs().max()) == 0
    assert float(answer.tokens[6:].abs().max()) > 0


def test_tokens_of_all_classes_stand_one_after_the_other(stub_model):
    target = np.ones((8, 8), dtype=bool)
    answer = ask(stub_model(2), [target, target, target])
    assert answer.tokens.shape == (18, 4, 4)
    assert answer.probs.shape == (3, 8, 8)


def test_clicks_add_up_and_each_brings_the_mask_of_the_step_before(stub_model, make_ball):
    model = stub_model(3)
    ask(model, [make_ball((16, 16, 16), (8, 8, 8), 6)])
    assert [p.clicks.shape[1] for p in model.prompted] == [1, 2, 3, 4, 5]
    assert model.prompted[0].memory is None
    assert all(p.memory is not None for p in model.prompted[1:])
    last = model.prompted[-1].clicks[0]
    assert torch.equal(model.prompted[0].clicks[0], last[:1])


def test_random_clicks_fall_on_the_error_left_over(stub_model, make_ball):
    model = stub_model(3)
    target = make_ball((16, 16, 16), (8, 8, 8), 6)
    ask(model, [target])
    first, *_, last = model.prompted
    voxel = tuple(first.clicks[0, 0].long().tolist())
    assert target[voxel]
    found = last.memory[0].numpy() > 0
    voxel, kind = last.clicks[0, -1].long().tolist(), last.kinds[0, -1]
    assert found[tuple(voxel)] != target[tuple(voxel)]
    assert bool(kind) == target[tuple(voxel)]


def test_clicking_stops_when_nothing_is_wrong(stub_model, make_ball):
    target = make_ball((16, 16, 16), (8, 8, 8), 0)  # one voxel

    class Right(stub_model):
        def prompt(self, image, prompts):
            made = super().prompt(image, prompts)
            return replace(made, logits=torch.from_numpy(target * 8.0 - 4).float()[None])

    model = Right(3)
    ask(model, [target])
    assert len(model.prompted) == 1


def test_pseudo_masks_are_clicked_where_the_specialist_is_surest(stub_model, make_ball):
    model = stub_model(3)
    target = make_ball((16, 16, 16), (8, 8, 8), 4)
    uncertainty = torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(0)) + 1
    uncertainty[9, 7, 8] = 0.0
    ask(model, [target], uncertainty=uncertainty)
    clicks = model.prompted[-1].clicks[0]
    assert clicks[0].tolist() == [9, 7, 8]
    assert len(clicks.unique(dim=0)) == CLICKS


def test_an_empty_pseudo_mask_gets_background_clicks(stub_model):
    model = stub_model(3)
    answer = ask(model, [np.zeros((16, 16, 16), dtype=bool)], uncertainty=torch.rand(16, 16, 16))
    assert float(model.prompted[-1].kinds.max()) == 0
    assert float(answer.probs.max()) < 0.5


def test_an_absent_class_of_an_annotation_is_not_clicked(stub_model):
    model = stub_model(3)
    answer = ask(model, [np.zeros((16, 16, 16), dtype=bool)])
    assert not model.prompted
    assert float(answer.probs.max()) == 0
