import itertools

import nibabel.orientations as nio
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from uncol.data.frame import Space, as_tensor, choose_space, make_frame, zoom
from uncol.data.grid import Grid

SPACES = ["RAS", "LPS", "SAR", "AIL"]
SPACINGS = [(1.0, 1.0, 1.0), (0.5, 0.5, 2.0), (2.0, 0.5, 0.5), (0.7, 1.3, 0.9)]


@st.composite
def grids(draw, spacings=SPACINGS, smallest=1):
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    tilt = draw(st.tuples(*[st.floats(-15, 15)] * 3))
    origin = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    affine = np.eye(4)
    axes = np.eye(3)[:, order] * signs * draw(st.sampled_from(spacings))
    affine[:3, :3] = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix() @ axes
    affine[:3, 3] = origin
    return Grid(draw(st.tuples(*[st.integers(smallest, 8)] * 3)), affine)


def world(grid):
    """Each voxel's place in mm, `(3, I, J, K)`: linear, so zooming in between is exact."""
    index = np.stack([*np.meshgrid(*map(np.arange, grid.shape), indexing="ij")])
    places = np.einsum("ab,bijk->aijk", grid.affine[:3, :3], index)
    return torch.from_numpy(places + grid.affine[:3, 3, None, None, None])


def same_spacing(grid, axcodes):
    """The space that keeps a grid's own voxel sizes."""
    turn = nio.ornt_transform(nio.io_orientation(grid.affine), nio.axcodes2ornt(axcodes))
    spacing = [0.0, 0.0, 0.0]
    for scan_axis, working_axis in enumerate(turn[:, 0].astype(int)):
        spacing[working_axis] = grid.spacing_mm[scan_axis]
    return Space(axcodes, tuple(spacing))


def marked(grid):
    return torch.arange(int(np.prod(grid.shape)), dtype=torch.int32).reshape(1, *grid.shape)


@given(grids(), st.sampled_from(SPACES))
def test_a_label_returns_to_the_same_voxels_exactly_when_spacing_is_equal(grid, axcodes):
    frame = make_frame(grid, same_spacing(grid, axcodes))
    label = marked(grid)
    assert torch.equal(frame.to_scan(frame.to_working(label, nearest=True), nearest=True), label)


@given(grids(), st.sampled_from(SPACES))
def test_every_voxel_stays_where_it_was_in_the_patient(grid, axcodes):
    frame = make_frame(grid, same_spacing(grid, axcodes))
    np.testing.assert_allclose(
        frame.to_working(world(grid)).numpy(), world(frame.working).numpy(), atol=1e-3
    )


@given(grids(smallest=3), st.sampled_from(SPACES))
def test_resampling_finer_keeps_inner_voxels_where_they_were(grid, axcodes):
    fine = same_spacing(grid, axcodes)
    fine = Space(axcodes, tuple(size / 2 for size in fine.spacing_mm))
    frame = make_frame(grid, fine)
    inner = (slice(None), slice(1, -1), slice(1, -1), slice(1, -1))  # the rim has no neighbour
    np.testing.assert_allclose(
        frame.to_working(world(grid))[inner].numpy(),
        world(frame.working)[inner].numpy(),
        atol=1e-3,
    )


@given(grids(), st.sampled_from(SPACES), st.integers(2, 3))
def test_a_label_survives_a_finer_working_frame(grid, axcodes, times):
    fine = same_spacing(grid, axcodes)
    frame = make_frame(grid, Space(axcodes, tuple(s / times for s in fine.spacing_mm)))
    label = marked(grid)
    assert torch.equal(frame.to_scan(frame.to_working(label, nearest=True), nearest=True), label)


@given(grids(), st.sampled_from(SPACES), st.sampled_from(SPACINGS))
def test_the_way_back_always_ends_on_the_scan_s_own_grid(grid, axcodes, spacing):
    frame = make_frame(grid, Space(axcodes, spacing))
    working = frame.to_working(marked(grid).float())
    assert working.shape[1:] == frame.working.shape
    assert frame.to_scan(working).shape[1:] == grid.shape
    assert "".join(nio.aff2axcodes(frame.working.affine)) == axcodes


@given(grids(), st.sampled_from(SPACES), st.sampled_from(SPACINGS))
def test_the_working_grid_covers_the_same_box(grid, axcodes, spacing):
    working = make_frame(grid, Space(axcodes, spacing)).working

    def box(it):
        edges = np.array(list(itertools.product(*[(-0.5, size - 0.5) for size in it.shape])))
        return np.sort((edges @ it.affine[:3, :3].T + it.affine[:3, 3]).round(3), axis=0)

    np.testing.assert_allclose(box(grid), box(working), atol=2e-3)


@given(grids(), st.sampled_from(SPACES), st.sampled_from(SPACINGS))
def test_a_single_slice_stays_a_single_slice(grid, axcodes, spacing):
    frame = make_frame(grid, Space(axcodes, spacing))
    flat = [frame.order.index(axis) for axis, size in enumerate(grid.shape) if size == 1]
    assert all(frame.working.shape[axis] == 1 for axis in flat)


def test_a_las_scan_is_mirrored_into_ras():
    grid = Grid((3, 1, 1), np.diag([-1.0, 1, 1, 1]))
    frame = make_frame(grid, Space("RAS", (1.0, 1.0, 1.0)))
    assert frame.to_working(torch.tensor([1, 2, 3]).reshape(1, 3, 1, 1)).flatten().tolist() == [
        3,
        2,
        1,
    ]


def test_four_to_one_slices_become_isotropic_and_return():
    grid = Grid((4, 4, 2), np.diag([1.0, 1, 4, 1]))
    frame = make_frame(grid, Space("RAS", (1.0, 1.0, 1.0)))
    volume = torch.zeros(1, 4, 4, 2)
    volume[..., 1] = 8.0
    working = frame.to_working(volume)
    assert working.shape == (1, 4, 4, 8)
    # centres of the thin slices lie at -3/8, -1/8, 1/8 ... of a thick one: linear in between
    assert working[0, 0, 0].tolist() == [0, 0, 1, 3, 5, 7, 8, 8]


def test_shrinking_averages_so_that_a_thin_structure_does_not_vanish():
    volume = torch.zeros(1, 8, 1, 1)
    volume[0, 3] = 1.0
    small = zoom(volume, (2, 1, 1), nearest=False)
    assert small.max() > 0.1
    assert float(small.mean()) == pytest.approx(float(volume.mean()), rel=0.3)


def test_zooming_to_the_same_shape_changes_nothing():
    volume = torch.rand(2, 3, 4, 5)
    assert zoom(volume, (3, 4, 5), nearest=False) is volume


def test_a_constant_stays_constant():
    assert torch.allclose(
        zoom(torch.full((1, 5, 6, 7), 3.0), (8, 3, 14), nearest=False), torch.tensor(3.0)
    )


def test_nearest_makes_no_new_values_and_keeps_the_type():
    label = torch.tensor([0, 7, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    large = zoom(label, (10, 2, 2), nearest=True)
    assert large.dtype == torch.uint8
    assert set(large.unique().tolist()) == {0, 7, 255}


def test_nearest_takes_the_voxel_under_the_new_centre():
    six = torch.arange(6).reshape(1, 6, 1, 1)
    assert zoom(six, (2, 1, 1), nearest=True).flatten().tolist() == [1, 4]


def test_as_tensor_adds_a_channel_without_copying():
    array = np.zeros((2, 3, 4), dtype=np.float32)
    as_tensor(array)[0, 1, 2, 3] = 5
    assert array[1, 2, 3] == 5


def test_the_slice_axis_stands_last_in_a_sagittal_stack():
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, 4.0], [1.0, 0, 0], [0, 1.0, 0]]  # slices run from left to right
    space = choose_space([Grid((20, 20, 5), affine)])
    assert space == Space("ASR", (1.0, 1.0, 4.0))


def test_an_isotropic_pool_is_ras_with_its_median_voxel():
    pool = [Grid((9, 9, 9), np.diag([s, s, 1.0, 1])) for s in (0.8, 1.0, 1.9)]
    assert choose_space(pool) == Space("RAS", (1.0, 1.0, 1.0))


def test_single_images_keep_their_pixels_and_get_a_nominal_thickness():
    space = choose_space([Grid((64, 48, 1), np.diag([0.3, 0.3, 9.0, 1]))])
    assert space == Space("RAS", (0.3, 0.3, 1.0))


@given(grids(smallest=2))
def test_the_chosen_space_never_has_its_slices_in_plane(grid):
    space = choose_space([grid])
    assert sorted(space.spacing_mm) == pytest.approx(sorted(grid.spacing_mm))
    assert max(space.spacing_mm) < 2 * sorted(space.spacing_mm)[1] or space.spacing_mm[
        2
    ] == pytest.approx(max(grid.spacing_mm))
