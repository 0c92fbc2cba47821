import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uncol.method.mixing import copy_paste_mask, mix, pool_mask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("shape", "share"), [((12, 12, 1), 4 / 9), ((12, 12, 12), 8 / 27)])
def test_the_block_takes_two_thirds_of_each_side(shape, share):
    mask = copy_paste_mask(3, shape, generator=seeded())
    assert mask.shape == (3, 1, *shape)
    assert ((1 - mask).mean(dim=(1, 2, 3, 4)) - share).abs().max() < 1e-6


@given(st.integers(0, 999), st.tuples(*[st.integers(1, 20)] * 3))
def test_each_mask_has_one_solid_block_inside_the_crop(seed, shape):
    for item in copy_paste_mask(2, shape, generator=seeded(seed))[:, 0]:
        inside = (item == 0).nonzero()
        sides = [max(1, int(size * 2 / 3)) for size in shape]
        assert (inside.amax(0) - inside.amin(0) + 1).tolist() == sides
        assert len(inside) == sides[0] * sides[1] * sides[2]


def test_over_many_draws_the_block_visits_every_corner():
    masks = copy_paste_mask(200, (6, 9, 1), generator=seeded())
    assert (masks == 0).any(dim=0).all()
    assert (masks == 1).any(dim=0)[0, [0, -1]].all()


def test_mixing_takes_the_outside_where_the_mask_is_one():
    mask = torch.tensor([1.0, 0, 1]).reshape(1, 1, 3, 1, 1)
    image = mix(mask, torch.full((1, 2, 3, 1, 1), 5.0), torch.full((1, 2, 3, 1, 1), -5.0))
    assert image[0, 0].flatten().tolist() == image[0, 1].flatten().tolist() == [5, -5, 5]
    label = mix(mask, torch.full((1, 3, 1, 1), 7), torch.full((1, 3, 1, 1), 9))
    assert label.flatten().tolist() == [7, 9, 7]
    assert not label.is_floating_point()


def test_both_ways_of_mixing_hold_everything_once():
    torch.manual_seed(0)
    first, second = torch.randn(2, 2, 1, 6, 6, 6)
    mask = copy_paste_mask(2, (6, 6, 6), generator=seeded())
    assert torch.equal(mix(mask, first, second) + mix(mask, second, first), first + second)


def test_a_pooled_mask_is_the_share_outside_the_block():
    mask = torch.ones(1, 1, 4, 4, 4)
    mask[..., :2, :2, :1] = 0
    pooled = pool_mask(mask, (2, 2, 2))[0, 0]
    assert pooled[0, 0, 0] == 0.5
    assert pooled[1, 1, 1] == 1
