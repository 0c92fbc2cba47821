import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uncol.uncertainty.maps import entropy, head_disagreement, soft_dice_confidence


def voxel(*probs):
    return torch.tensor(probs).reshape(1, -1, 1, 1, 1)


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        ((0.5, 0.5), 1.0),
        ((1.0, 0.0), 0.0),
        ((0.75, 0.25), 0.811278),  # bits of a coin of 3 to 1
        ((0.25,) * 4, 1.0),
        ((0.5, 0.5, 0.0, 0.0), 0.5),
    ],
)
def test_entropy_by_hand(probs, expected):
    assert entropy(voxel(*probs)).item() == pytest.approx(expected, abs=1e-5)


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=6))
def test_entropy_lies_between_zero_and_one(logits):
    value = entropy(voxel(*logits).softmax(dim=1)).item()
    assert 0 <= value <= 1


def test_entropy_takes_any_class_axis():
    probs = torch.rand(2, 3, 4, 5, 6).softmax(dim=1)
    assert torch.equal(entropy(probs), entropy(probs.movedim(1, 3), dim=3))


def heads(*probs):
    return torch.tensor(probs).reshape(1, len(probs), -1, 1, 1, 1)


def test_heads_that_agree_do_not_disagree_however_unsure():
    assert head_disagreement(heads((0.5, 0.5), (0.5, 0.5))).item() == pytest.approx(0, abs=1e-6)


def test_sure_heads_of_two_minds_disagree_fully():
    assert head_disagreement(heads((1.0, 0.0), (0.0, 1.0))).item() == pytest.approx(1, abs=1e-5)


def test_disagreement_by_hand():
    # H(0.7, 0.3) - mean of H(0.9, 0.1) and H(0.5, 0.5), in bits
    expected = 0.881291 - (0.468996 + 1) / 2
    assert head_disagreement(heads((0.9, 0.1), (0.5, 0.5))).item() == pytest.approx(
        expected, abs=1e-5
    )


def test_soft_dice_confidence_by_hand():
    foreground = torch.tensor([0.9, 0.8, 0.3, 0.0]).reshape(4, 1, 1)
    probs = torch.stack([1 - foreground, foreground])
    confidence = soft_dice_confidence(probs, probs.argmax(dim=0))
    assert confidence.tolist() == pytest.approx([2 * 1.7 / (2.0 + 2)])


def test_a_sure_mask_has_confidence_one():
    label = torch.zeros(3, 3, 3, dtype=torch.long)
    label[1] = 1
    probs = torch.nn.functional.one_hot(label, 3).movedim(-1, 0).float()
    confidence = soft_dice_confidence(probs, label)
    assert confidence[0] == 1
    assert math.isnan(confidence[1])  # no voxel of it anywhere


def test_background_alone_has_no_confidence():
    assert soft_dice_confidence(
        torch.ones(1, 2, 2, 2), torch.zeros(2, 2, 2, dtype=torch.uint8)
    ).shape == (0,)
