import math

import numpy as np
import pytest

from uncol.versions.metrics import dice, dice_per_label, mean_of, scores

LABELS = {"a": 1, "b": 2}


def cube(start: int, stop: int) -> np.ndarray:
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[start:stop, start:stop, start:stop] = True
    return mask


def test_dice_of_half_overlapping_masks_is_a_half() -> None:
    first, second = np.zeros((2, 8), dtype=bool)
    first[:4], second[2:6] = True, True
    assert dice(first, second) == 0.5


def test_dice_of_two_empty_masks_is_unknown_and_of_one_empty_is_zero() -> None:
    empty, full = np.zeros(4, dtype=bool), np.ones(4, dtype=bool)
    assert math.isnan(dice(empty, empty))
    assert dice(empty, full) == 0.0


def test_equal_labels_of_any_value_have_dice_one() -> None:
    label = np.array([0, 1, 2, 2])
    assert dice_per_label(label, label, LABELS) == {"a": 1.0, "b": 1.0}


def test_voxels_that_nobody_annotated_do_not_count() -> None:
    truth = np.array([1, 1, 255, 255])
    assert dice_per_label(np.array([1, 1, 1, 1]), truth, {"a": 1}) == {"a": 1.0}


def test_the_mean_leaves_out_labels_that_do_not_occur() -> None:
    assert mean_of({"a": 0.5, "b": float("nan")}) == 0.5
    assert math.isnan(mean_of({"a": float("nan")}))


def test_distances_are_in_mm() -> None:
    shifted = np.roll(cube(4, 8), 1, axis=0)
    near = scores(cube(4, 8), shifted, (1.0, 1.0, 1.0))
    far = scores(cube(4, 8), shifted, (3.0, 3.0, 3.0))
    assert near.dice == pytest.approx(0.75)
    assert near.hd95_mm == pytest.approx(1.0)
    assert far.hd95_mm == pytest.approx(3.0)
    assert far.asd_mm == pytest.approx(3 * near.asd_mm)


def test_distances_of_an_empty_mask_are_unknown_but_zero_as_released() -> None:
    empty = np.zeros((12, 12, 12), dtype=bool)
    ours = scores(empty, cube(4, 8), (1.0, 1.0, 1.0))
    assert ours.dice == 0.0
    assert math.isnan(ours.hd95_mm)
    released = scores(empty, cube(4, 8), (1.0, 1.0, 1.0), released=True)
    assert (released.dice, released.hd95_mm, released.asd_mm) == (0.0, 0.0, 0.0)
