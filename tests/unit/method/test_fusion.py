import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uncol.method.fusion import fuse, generalist_probs

YES = torch.ones(1, 1, 1, 1, dtype=torch.bool)


def voxel(*probs):
    return torch.tensor(probs).reshape(1, -1, 1, 1, 1)


def unsure(*probs):
    return -sum(p * math.log(p) for p in probs) / math.log(len(probs))


def test_background_is_what_the_classes_leave():
    probs = generalist_probs(voxel(0.2, 0.5))
    assert probs.flatten().tolist() == pytest.approx([0.3, 0.2, 0.5])


def test_classes_that_claim_too_much_are_scaled_down():
    probs = generalist_probs(voxel(0.9, 0.6))
    assert probs.flatten().tolist() == pytest.approx([0.0, 0.6, 0.4])


def test_a_class_that_was_not_prompted_is_impossible():
    assert generalist_probs(voxel(0.0, 1.0)).flatten().tolist() == pytest.approx([0, 0, 1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.booleans())
def test_probabilities_sum_to_one(foreground, softmax_over_probabilities):
    probs = generalist_probs(
        voxel(*foreground), softmax_over_probabilities=softmax_over_probabilities
    )
    assert float(probs.sum()) == pytest.approx(1, abs=1e-5)
    assert (probs >= 0).all()


def test_the_surer_one_weighs_more():
    # U_S = 0, U_G = 0.6126: w_G = 1 / (1 + e^0.6126) = 0.3515, so P = (0.649, 0.211, 0.141);
    # with the weights swapped it would be (0.351, 0.389, 0.259)
    assert unsure(0.6, 0.4, 1e-12) == pytest.approx(0.6126, abs=1e-4)
    specialist, generalist = voxel(1.0, 0.0, 0.0), voxel(0.0, 0.6, 0.4)
    assert fuse(specialist, generalist, YES, threshold=1.0).label.item() == 0
    assert fuse(generalist, specialist, YES, threshold=1.0).label.item() == 0


def test_two_equally_sure_ones_are_averaged():
    # alone each would say 0 or 1; their mean is (0.35, 0.25, 0.40)
    specialist, generalist = voxel(0.6, 0.0, 0.4), voxel(0.1, 0.5, 0.4)
    weight = 1 / (1 + math.exp(unsure(0.1, 0.5, 0.4) - unsure(0.6, 1e-12, 0.4)))
    assert weight == pytest.approx(0.43, abs=0.01)
    assert fuse(specialist, generalist, YES, threshold=1.0).label.item() == 2


@pytest.mark.parametrize(
    ("specialist", "generalist", "label", "passed"),
    [
        ((0.95, 0.05), (0.5, 0.5), 0, (True, False)),
        ((0.5, 0.5), (0.05, 0.95), 1, (False, True)),
        ((0.05, 0.95), (0.02, 0.98), 1, (True, True)),
        ((0.5, 0.5), (0.45, 0.55), None, (False, False)),
    ],
)
def test_only_those_that_pass_the_gate_speak(specialist, generalist, label, passed):
    pseudo = fuse(voxel(*specialist), voxel(*generalist), YES, threshold=0.75)
    assert (pseudo.specialist.item(), pseudo.generalist.item()) == passed
    assert pseudo.trusted.item() == any(passed)
    if label is not None:
        assert pseudo.label.item() == label


def test_a_generalist_that_was_not_asked_does_not_pass_however_sure():
    nowhere = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    pseudo = fuse(voxel(0.8, 0.2), voxel(0.0, 1.0), nowhere, threshold=1.0)
    assert pseudo.label.item() == 0
    assert not pseudo.generalist.item()


def test_the_gate_closes_exactly_above_its_threshold():
    level = unsure(0.8, 0.2)
    for gap, passes in ((1e-4, True), (-1e-4, False)):
        pseudo = fuse(voxel(0.8, 0.2), voxel(0.5, 0.5), YES, threshold=level + gap)
        assert pseudo.specialist.item() == passes


def test_every_voxel_is_judged_for_itself():
    torch.manual_seed(0)
    specialist, generalist = torch.randn(2, 2, 3, 4, 5, 6).mul(2).softmax(dim=2)
    available = torch.rand(2, 4, 5, 6) > 0.3
    whole = fuse(specialist, generalist, available, threshold=0.6)
    for place in [(0, 1, 2, 3), (1, 3, 4, 5), (0, 0, 0, 0)]:
        item, *rest = place
        at = (slice(item, item + 1), slice(None), *(slice(r, r + 1) for r in rest))
        here = (slice(item, item + 1), *(slice(r, r + 1) for r in rest))
        alone = fuse(specialist[at], generalist[at], available[here], threshold=0.6)
        assert alone.label.item() == whole.label[place].item()
        assert alone.trusted.item() == whole.trusted[place].item()


def test_without_the_specialist_only_the_generalist_is_heard():
    specialist, generalist = voxel(1.0, 0.0, 0.0), voxel(0.0, 0.9, 0.1)
    heard = fuse(specialist, generalist, YES, threshold=1.0, seen=~YES)
    assert heard.label.item() == 1
    assert not heard.specialist.item()
    nobody = fuse(specialist, generalist, ~YES, threshold=1.0, seen=~YES)
    assert not nobody.trusted.item()
