import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from uncol.data.labels import IGNORE_VALUE
from uncol.data.masks import largest_component
from uncol.inference.one_piece import (
    FEWEST_SCANS,
    find_one_piece,
    keep_one_piece_,
    likeliest_piece,
)
from uncol.uncertainty.maps import entropy, most_probable

HEART = {"rv": 1, "lv": 2}
TOGETHER = (1, 2)


def heart() -> np.ndarray:
    """Return two chambers that touch."""
    label = np.zeros((16, 16, 8), dtype=np.uint8)
    label[2:7, 2:12], label[7:12, 2:12] = 1, 2
    return label


def with_stray(value: int, *, count: int) -> np.ndarray:
    label = heart()
    label[14, 14, :count] = value
    return label


def test_what_is_one_piece_everywhere_is_single_together_and_alone() -> None:
    assert find_one_piece([heart()] * FEWEST_SCANS, HEART) == (TOGETHER, (1,), (2,))


def test_one_scan_with_two_pieces_is_enough() -> None:
    scans = [heart()] * 5
    assert find_one_piece([*scans, with_stray(1, count=8)], HEART) == ((2,),)


def test_a_voxel_beside_the_rest_is_a_slip_of_the_hand() -> None:
    assert TOGETHER in find_one_piece([*[heart()] * 3, with_stray(2, count=1)], HEART)


def test_a_small_label_apart_from_a_large_one_is_no_slip() -> None:
    label = np.zeros((30, 30, 30), dtype=np.uint8)
    label[:25, :25, :25], label[27:, 27:, 27:] = 1, 2
    assert find_one_piece([label] * FEWEST_SCANS, HEART) == ((1,), (2,))


def test_labels_that_no_scan_holds_together_are_not_one_piece_together() -> None:
    scans = [np.where(heart() == value, value, 0) for value in (1, 1, 1, 2, 2, 2)]
    assert find_one_piece(scans, HEART) == ((1,), (2,))


def test_few_scans_tell_nothing_and_parts_of_scans_neither() -> None:
    part = heart()
    part[:, :, 7] = IGNORE_VALUE
    scans = [heart()] * (FEWEST_SCANS - 1)
    assert find_one_piece(scans, HEART) == ()
    assert find_one_piece([*scans, part], HEART) == ()
    assert find_one_piece([*scans, np.zeros_like(part)], HEART) == ()


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    label = np.zeros((4, 4, 4), dtype=np.uint8)
    label[:2, :2, :2] = label[2:, 2:, 2:] = 1
    assert find_one_piece([label] * FEWEST_SCANS, {"it": 1}) == ((1,),)


def probabilities(label: np.ndarray, sure: float = 0.8) -> torch.Tensor:
    """Return class probabilities whose most probable class is a label's."""
    hot = torch.nn.functional.one_hot(torch.from_numpy(label).long(), 3).movedim(-1, 0)
    return hot * sure + (1 - hot) * (1 - sure) / 2


def test_a_stray_piece_is_background_and_as_unsure_as_before() -> None:
    probs = probabilities(with_stray(2, count=4))
    label, unsure = most_probable(probs), entropy(probs, dim=0)
    keep_one_piece_(probs, label, [TOGETHER])
    np.testing.assert_array_equal(label.numpy(), heart())
    np.testing.assert_array_equal(most_probable(probs).numpy(), heart())
    torch.testing.assert_close(entropy(probs, dim=0), unsure)  # sums in another order


def test_a_stray_piece_within_another_label_becomes_that_label() -> None:
    label = heart()
    label[10, 4, 1] = 1  # deep in the lv
    probs = probabilities(label)
    probs[:, 10, 4, 1] = torch.tensor([0.1, 0.5, 0.4])
    found = most_probable(probs)
    keep_one_piece_(probs, found, [TOGETHER, (1,), (2,)])
    assert int(found[10, 4, 1]) == 2
    np.testing.assert_array_equal(most_probable(probs).numpy(), found.numpy())


def test_without_single_structures_nothing_changes() -> None:
    probs = probabilities(with_stray(1, count=4))
    before, label = probs.clone(), most_probable(probs)
    keep_one_piece_(probs, label, ())
    assert torch.equal(probs, before)


@given(
    seed=st.integers(0, 10_000),
    structures=st.lists(st.sampled_from([(1, 2), (1,), (2,)]), unique=True),
)
def test_any_prediction_stays_one(seed, structures) -> None:
    coarse = torch.randn(1, 3, 4, 4, 3, generator=torch.Generator().manual_seed(seed))
    probs = (4 * torch.nn.functional.interpolate(coarse, (9, 8, 6)))[0].softmax(dim=0)
    before, label = probs.clone(), most_probable(probs)
    keep_one_piece_(probs, label, structures)
    assert torch.equal(most_probable(probs), label)
    # the same numbers at every voxel, in another order at stray ones
    assert torch.equal(probs.sort(dim=0).values, before.sort(dim=0).values)
    for structure in structures:
        mask = np.isin(label.numpy(), structure)
        np.testing.assert_array_equal(largest_component(mask, corners=True), mask)


def test_a_piece_with_all_labels_wins_over_a_larger_one_of_one_label() -> None:
    label = np.zeros((30, 16, 8), dtype=np.uint8)
    label[:16, :16] = heart()
    label[18:] = 1
    right = label.copy()
    right[18:] = 0
    assert (label[18:] > 0).sum() > (right > 0).sum()
    probs = probabilities(label)
    shown = torch.from_numpy(label)
    keep_one_piece_(probs, shown, [TOGETHER])
    np.testing.assert_array_equal(shown.numpy(), right)


def test_of_two_pieces_the_one_that_the_student_believes_in_stays() -> None:
    mask = np.zeros((12, 4, 4), dtype=bool)
    mask[:6], mask[7:] = True, True
    evidence = np.where(np.arange(12) < 6, 0.4, 0.9)[None, :, None, None] * np.ones((1, 12, 4, 4))
    assert not likeliest_piece(mask, evidence)[:6].any()
    assert likeliest_piece(mask, evidence)[7:].all()
    assert likeliest_piece(mask, np.ones_like(evidence))[:6].all()  # equally sure: the larger one
