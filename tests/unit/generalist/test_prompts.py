import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from uncol.data.masks import filled_box, largest_component, tight_box
from uncol.generalist.prompts import certain_clicks, random_click


def test_the_largest_part_is_kept():
    mask = np.zeros((8, 8), dtype=bool)
    mask[0, :2] = mask[4:7, 4:7] = mask[7, 0] = True
    kept = largest_component(mask)
    assert kept.sum() == 9
    assert kept[4:7, 4:7].all()


def test_corners_do_not_join():
    mask = np.eye(4, dtype=bool)
    mask[0, 1] = True  # joins the first two
    assert largest_component(mask).sum() == 3


@given(arrays(bool, (4, 4, 4)))
def test_a_component_is_part_of_the_mask_and_as_it_was_if_alone(mask):
    kept = largest_component(mask)
    assert not (kept & ~mask).any()
    assert kept.any() == mask.any()
    np.testing.assert_array_equal(largest_component(kept), kept)


def test_a_box_has_the_voxels_edges():
    mask = np.zeros((9, 9), dtype=bool)
    mask[3, 5] = True
    assert tight_box(mask).tolist() == [3, 5, 4, 6]
    mask[6, 2] = True
    assert tight_box(mask).tolist() == [3, 2, 7, 6]


def test_a_margin_ends_at_the_image():
    mask = np.zeros((9, 20), dtype=bool)
    mask[1, 5] = True
    assert tight_box(mask, margin=2.5).tolist() == [0, 2.5, 4.5, 8.5]
    assert tight_box(mask, margin=99).tolist() == [0, 0, 9, 20]


def test_nothing_has_no_box():
    assert tight_box(np.zeros((4, 4), dtype=bool)) is None


@given(arrays(bool, (3, 4, 3)), arrays(bool, (3, 4, 3)), st.integers(0, 99))
def test_a_random_click_lies_on_an_error_and_knows_its_kind(truth, predicted, seed):
    click = random_click(truth, predicted, generator=np.random.default_rng(seed))
    if (truth == predicted).all():
        assert click is None
    else:
        voxel, positive = click
        assert truth[tuple(voxel)] != predicted[tuple(voxel)]
        assert positive == truth[tuple(voxel)]


def test_every_error_is_clicked_sooner_or_later():
    truth = np.zeros((2, 2, 2), dtype=bool)
    truth[0, 0, 0] = truth[1, 1, 1] = True
    generator = np.random.default_rng(0)
    drawn = {
        tuple(random_click(truth, np.zeros_like(truth), generator=generator)[0]) for _ in range(40)
    }
    assert drawn == {(0, 0, 0), (1, 1, 1)}


def test_the_surest_voxels_of_a_mask_are_clicked_in_order():
    mask = torch.zeros(4, 4, 4, dtype=torch.bool)
    mask[1, :, 2] = True
    uncertainty = torch.ones(4, 4, 4)
    uncertainty[1, :, 2] = torch.tensor([0.4, 0.1, 0.3, 0.2])
    uncertainty[0, 0, 0] = 0.0  # surer, but not in the mask
    clicks, kinds = certain_clicks(mask, uncertainty, 3)
    assert clicks.tolist() == [[1, 1, 2], [1, 3, 2], [1, 2, 2]]
    assert kinds.tolist() == [1, 1, 1]


def test_an_empty_mask_gets_background_clicks():
    uncertainty = torch.ones(3, 3, 3)
    uncertainty[2, 1, 0] = 0
    clicks, kinds = certain_clicks(torch.zeros(3, 3, 3, dtype=torch.bool), uncertainty, 2)
    assert clicks[0].tolist() == [2, 1, 0]
    assert kinds.tolist() == [0, 0]


@pytest.mark.parametrize("size", [1, 3])
def test_a_mask_smaller_than_the_clicks_wanted_gives_fewer(size):
    mask = torch.zeros(3, 3, 3, dtype=torch.bool)
    mask[0, 0, :size] = True
    clicks, kinds = certain_clicks(mask, torch.rand(3, 3, 3), 5)
    assert len(clicks) == len(kinds) == size


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 5)])
def test_a_filled_box_is_tight_in_any_dimension(shape):
    mask = np.zeros(shape, dtype=bool)
    corners = [tuple(2 for _ in shape), tuple(4 for _ in shape)]
    for corner in corners:
        mask[corner] = True
    expected = np.zeros(shape, dtype=bool)
    expected[tuple(slice(2, 5) for _ in shape)] = True
    np.testing.assert_array_equal(filled_box(mask), expected)
    assert not filled_box(np.zeros(shape, dtype=bool)).any()
