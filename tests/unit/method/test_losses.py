import math

import pytest
import torch
from monai.losses import DiceLoss, FocalLoss
from monai.networks import one_hot

from uncol.method import losses

SHAPE = (2, 3, 4, 5, 6)
ALL = [losses.cross_entropy, losses.focal, losses.dice, losses.soft_iou, losses.dice_ce]


@pytest.fixture
def label():
    return torch.randint(3, (2, 4, 5, 6), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def everywhere():
    return torch.ones(2, 4, 5, 6, dtype=torch.bool)


def one_voxel(p_foreground):
    logits = torch.tensor([math.log(1 - p_foreground), math.log(p_foreground)])
    return logits.reshape(1, 2, 1, 1, 1)


FOREGROUND = torch.ones(1, 1, 1, 1, dtype=torch.long)
COUNTS = torch.ones(1, 1, 1, 1, dtype=torch.bool)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (losses.cross_entropy, -math.log(0.8)),
        (losses.focal, -(0.2**2) * math.log(0.8)),
        # background: 0 of 0.2, so 1; foreground: 1 - 2 * 0.8 / 1.8
        (losses.dice, (1 + 1 - 1.6 / 1.8) / 2),
        # background: 1; foreground: 1 - 0.8 / 1
        (losses.soft_iou, (1 + 0.2) / 2),
        (losses.dice_ce, (1 + 1 - 1.6 / 1.8) / 2 - math.log(0.8)),
    ],
)
def test_one_voxel_worked_out_by_hand(loss, expected):
    assert float(loss(one_voxel(0.8), FOREGROUND, COUNTS)) == pytest.approx(expected, abs=2e-4)


def test_dice_agrees_with_monai(trainable, label, everywhere):
    theirs = DiceLoss(softmax=True, to_onehot_y=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)
    logits = trainable(*SHAPE)
    assert torch.allclose(losses.dice(logits, label, everywhere), theirs(logits, label[:, None]))


def test_soft_iou_agrees_with_monai_s_jaccard(trainable, label, everywhere):
    theirs = DiceLoss(softmax=True, to_onehot_y=True, batch=True, jaccard=True)
    logits = trainable(*SHAPE)
    ours = losses.soft_iou(logits, label, everywhere)
    assert torch.allclose(ours, theirs(logits, label[:, None]), atol=1e-5)


def test_focal_agrees_with_monai(trainable, label, everywhere):
    theirs = FocalLoss(use_softmax=True, gamma=2.0, reduction="none")
    logits = trainable(*SHAPE)
    expected = theirs(logits, one_hot(label[:, None], 3)).sum(dim=1).mean()
    assert torch.allclose(losses.focal(logits, label, everywhere), expected)


def test_cross_entropy_agrees_with_torch(trainable, label, everywhere):
    logits = trainable(*SHAPE)
    expected = torch.nn.functional.cross_entropy(logits, label)
    assert torch.allclose(losses.cross_entropy(logits, label, everywhere), expected)


@pytest.mark.parametrize("loss", ALL)
def test_a_masked_loss_is_the_loss_of_what_is_left(loss, trainable, label):
    mask = torch.zeros(2, 4, 5, 6, dtype=torch.bool)
    mask[:, 1:3] = True
    logits = trainable(*SHAPE)
    cut = loss(logits[:, :, 1:3], label[:, 1:3], torch.ones(2, 2, 5, 6, dtype=torch.bool))
    assert torch.allclose(loss(logits, label, mask), cut, atol=1e-5)


@pytest.mark.parametrize("loss", ALL)
def test_a_voxel_outside_the_mask_gives_no_gradient(loss, trainable, label):
    mask = torch.rand(2, 4, 5, 6, generator=torch.Generator().manual_seed(2)) > 0.5
    logits = trainable(*SHAPE)
    loss(logits, label, mask).backward()
    reached = logits.grad.abs().sum(dim=1) > 0
    assert torch.equal(reached, mask)


@pytest.mark.parametrize("loss", ALL)
def test_nothing_masked_in_gives_zero_without_gradient(loss, trainable, label):
    logits = trainable(*SHAPE)
    value = loss(logits, label, torch.zeros(2, 4, 5, 6, dtype=torch.bool))
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    assert float(logits.grad.abs().max()) == 0


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("value", [0, 1, 2])
def test_one_class_alone_stays_finite_and_is_learned(loss, trainable, everywhere, value):
    logits = trainable(*SHAPE)
    only = torch.full((2, 4, 5, 6), value)
    loss(logits, only, everywhere).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, value].sum() < 0).item()


@pytest.mark.parametrize("loss", ALL)
def test_a_perfect_prediction_costs_nothing(loss, label, everywhere):
    perfect = one_hot(label[:, None], 3) * 60 - 30
    assert float(loss(perfect, label, everywhere)) == pytest.approx(0, abs=1e-4)


def test_each_head_has_a_loss_of_its_own(trainable, label, everywhere):
    logits = trainable(2, 4, *SHAPE[1:])
    expected = [
        losses.cross_entropy(logits[:, 0], label, everywhere),
        losses.dice(logits[:, 1], label, everywhere),
        losses.focal(logits[:, 2], label, everywhere),
        losses.soft_iou(logits[:, 3], label, everywhere),
    ]
    whole = losses.four_heads(logits, label, everywhere)
    assert torch.allclose(whole, sum(expected) / 4)
    whole.backward()
    assert (logits.grad.abs().amax(dim=(0, 2, 3, 4, 5)) > 0).all()
