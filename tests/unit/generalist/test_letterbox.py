import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uncol.generalist.letterbox import Letterbox, even_slices, plane_axes, slices_along


def test_an_oblong_slice_keeps_its_proportions_and_is_padded_at_the_far_end():
    box = Letterbox((10, 20), (1.0, 1.0), 40)
    assert box.factors.tolist() == [2.0, 2.0]
    assert box.inner == (20, 40)
    view = box.shrink(torch.full((1, 10, 20), 3.0))
    assert view.shape == (1, 1, 40, 40)
    view = box.shrink(torch.cat([torch.full((1, 10, 10), 3.0), torch.full((1, 10, 10), -1.0)], 2))
    assert (view[0, 0, 20:] == -1).all()  # the slice's own minimum
    assert view[0, 0, 5, 5] == 3


def test_millimetres_count_not_voxels():
    box = Letterbox((10, 10), (1.0, 4.0), 40)
    assert box.inner == (10, 40)
    assert box.extent.tolist() == [40.0, 10.0]


@given(
    st.tuples(st.integers(4, 30), st.integers(4, 30)),
    st.tuples(st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.5, 1.0, 2.0])),
    st.data(),
)
def test_a_click_on_a_voxel_lands_on_that_voxel_s_pixels(shape, spacing, data):
    box = Letterbox(shape, spacing, 64)
    voxel = [data.draw(st.integers(0, size - 1)) for size in shape]
    image = torch.zeros(1, *shape)
    image[0, voxel[0], voxel[1]] = 1.0
    view = box.shrink(image)[0, 0]
    click = box.clicks_to_view(torch.tensor([voxel]))[0]
    places = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"), -1)
    centre = (places * view[..., None]).sum((0, 1)) / view.sum()
    rim = [v in (0, size - 1) for v, size in zip(voxel, shape, strict=True)]
    slack = torch.tensor(
        [f * (0.3 if edge else 0.05) + 0.6 for f, edge in zip(box.factors, rim, strict=True)]
    )
    assert ((centre - click).abs() <= slack).all()


def test_a_box_of_all_voxels_is_the_inner_view():
    box = Letterbox((10, 20), (1.0, 1.0), 40)
    assert box.boxes_to_view(torch.tensor([[0, 0, 10, 20]])).tolist() == [[0, 0, 20, 40]]


@given(st.tuples(*[st.integers(2, 12)] * 3), st.sampled_from([16, 24]))
def test_a_smooth_map_survives_the_way_there_and_back(shape, side):
    box = Letterbox(shape, (1.0, 1.0, 1.0), side)
    ramp = torch.linspace(0, 1, shape[0])[:, None, None].expand(shape)[None].clone()
    back = box.grow(box.shrink(ramp)[:, 0])
    assert back.shape == ramp.shape
    assert float((back - ramp).abs().max()) < 0.5 / shape[0] + 0.05


def test_a_coarse_answer_covers_the_whole_view():
    box = Letterbox((8, 8), (1.0, 1.0), 16)
    low = torch.zeros(1, 4, 4)
    low[0, 2:, :2] = 1
    grown = box.grow(low)[0]
    assert grown[6, 1] == 1
    assert grown[1, 1] == 0
    assert grown[6, 6] == 0


@given(st.integers(1, 100), st.integers(1, 30))
def test_three_times_as_many_slices_include_all_earlier_ones(count, wanted):
    few = even_slices(count, wanted)
    assert len(few) == min(count, wanted)
    assert all(0 <= index < count for index in few)
    if 3 * wanted <= count:
        assert set(few) <= set(even_slices(count, 3 * wanted))


def test_slices_stand_in_the_middle_of_equal_parts():
    assert even_slices(10, 1) == [5]
    assert even_slices(9, 3) == [1, 4, 7]
    assert even_slices(3, 10) == [0, 1, 2]


@pytest.mark.parametrize(("axis", "plane"), [(0, (1, 2)), (1, (0, 2)), (2, (0, 1))])
def test_slices_are_cut_across_their_axis(axis, plane):
    assert plane_axes(axis) == plane
    volume = torch.arange(24).reshape(2, 3, 4)
    assert torch.equal(
        slices_along(volume, axis, [1])[0], torch.from_numpy(np.take(volume.numpy(), 1, axis))
    )
