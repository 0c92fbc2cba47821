import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uncol.data.crops import CropMap
from uncol.training.augment import draw_crop, vary_intensity


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def whole(shape):
    return CropMap(shape, torch.eye(3), torch.zeros(3))


def test_the_identity_gives_the_scan_back():
    volume = torch.rand(2, 5, 6, 7)
    assert torch.allclose(whole((5, 6, 7)).sample(volume), volume, atol=1e-5)


def test_a_crop_moved_by_whole_voxels_is_a_slice_of_the_scan():
    volume = torch.rand(1, 8, 8, 8)
    crop = CropMap((3, 4, 2), torch.eye(3), torch.tensor([2.0, 1.0, 5.0]))
    assert torch.allclose(crop.sample(volume), volume[:, 2:5, 1:5, 5:7], atol=1e-5)


def test_half_a_voxel_is_the_mean_of_two():
    volume = torch.tensor([0.0, 4.0, 8.0]).reshape(1, 3, 1, 1)
    crop = CropMap((2, 1, 1), torch.eye(3), torch.tensor([0.5, 0.0, 0.0]))
    assert crop.sample(volume).flatten().tolist() == pytest.approx([2.0, 6.0])


def test_outside_the_scan_there_is_only_the_fill():
    volume = torch.full((1, 4, 4, 4), 7.0)
    crop = CropMap((4, 4, 4), torch.eye(3), torch.tensor([-2.0, 0.0, 2.0]))
    sampled = crop.sample(volume, fill=-3.0)
    assert (sampled[:, :2] == -3).all()
    assert (sampled[:, :, :, 2:] == -3).all()
    assert torch.allclose(sampled[:, 2:, :, :2], torch.tensor(7.0))


def test_nearest_makes_no_new_label_values():
    label = torch.from_numpy(np.random.default_rng(0).choice([0, 2, 255], (1, 9, 9, 9)))
    place = draw_crop((9, 9, 9), (6, 6, 6), center=None, generator=seeded(3))
    assert set(place.sample(label, nearest=True).unique().tolist()) <= {0, 2, 255}


@given(st.integers(0, 10_000))
def test_image_and_label_are_cut_at_the_same_place(seed):
    axes = torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij")
    smooth = torch.stack(axes)  # each voxel's own index
    place = draw_crop((16, 16, 16), (6, 6, 6), center=None, generator=seeded(seed))
    points = place.places((6, 6, 6)).movedim(-1, 0)
    inside = ((points >= 0) & (points <= 15)).all(0)
    assert torch.allclose(place.sample(smooth)[:, inside], points[:, inside], atol=1e-3)
    gap = (place.sample(smooth, nearest=True) - points).abs()[:, inside]
    assert gap.numel() == 0 or float(gap.max()) <= 0.5 + 1e-3


def test_tokens_lie_at_the_centres_of_equal_parts():
    crop = CropMap((8, 4, 1), torch.eye(3), torch.tensor([10.0, 20.0, 30.0]))
    points = crop.places((2, 2, 1))
    assert points[:, 0, 0, 0].tolist() == [11.5, 15.5]  # voxels 10...13 and 14...17
    assert points[0, :, 0, 1].tolist() == [20.5, 22.5]
    assert points[0, 0, 0, 2] == 30.0


@given(st.integers(0, 10_000), st.sampled_from([(16, 16, 16), (30, 12, 9), (4, 5, 6)]))
def test_only_the_part_that_is_touched_is_read_yet_nothing_changes(seed, shape):
    volume = np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)
    place = draw_crop(shape, (6, 6, 6), center=None, generator=seeded(seed))
    wide = np.pad(volume, ((0, 0), (9, 9), (9, 9), (9, 9)), constant_values=-5.0)
    moved = CropMap(place.shape, place.matrix, place.offset + 9)
    assert torch.allclose(place.sample(volume, fill=-5.0), moved.sample(wide, fill=-5.0), atol=1e-3)


def test_a_memory_mapped_scan_is_sampled_like_any_other(tmp_path):
    volume = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float16)
    np.save(tmp_path / "v.npy", volume)
    place = draw_crop((8, 8, 8), (4, 4, 4), center=None, generator=seeded())
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert torch.equal(place.sample(mapped), place.sample(volume))


@given(st.integers(0, 10_000))
def test_a_single_slice_is_neither_turned_nor_scaled_out_of_plane(seed):
    place = draw_crop((20, 20, 7), (8, 8, 1), center=None, generator=seeded(seed))
    slices = place.places((8, 8, 1))[..., 2]
    assert slices.unique().numel() == 1
    assert float(slices[0, 0, 0]) == pytest.approx(round(float(slices[0, 0, 0])), abs=1e-4)


@given(st.integers(0, 10_000), st.tuples(*[st.integers(6, 19)] * 3))
def test_a_crop_s_middle_stays_where_the_crop_fits_into_the_scan(seed, center):
    place = draw_crop((20, 20, 20), (8, 8, 8), center=torch.tensor(center), generator=seeded(seed))
    middle = place.matrix @ torch.full((3,), 3.5) + place.offset
    assert ((middle >= 3.5 - 1e-3) & (middle <= 15.5 + 1e-3)).all()


@given(st.integers(0, 10_000))
def test_a_scan_smaller_than_the_crop_is_centred_in_it(seed):
    place = draw_crop((4, 4, 4), (8, 8, 8), center=None, generator=seeded(seed))
    middle = place.matrix @ torch.full((3,), 3.5) + place.offset
    assert torch.allclose(middle, torch.full((3,), 1.5), atol=1e-4)


@given(st.integers(0, 10_000))
def test_an_upright_view_has_a_crop_s_centre_and_holds_what_the_crop_shows(seed):
    i, j, k = torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij")
    volume = (i + 2 * j - 3 * k)[None]  # linear, so that sampling twice changes nothing
    center = torch.tensor([12, 11, 12])
    place = draw_crop((24, 24, 24), (8, 8, 8), center=center, generator=seeded(seed))
    view = place.upright()
    assert torch.equal(view.matrix, torch.eye(3))
    assert torch.equal(view.offset, view.offset.round())
    gap = view.offset + 3.5 - (place.matrix @ torch.full((3,), 3.5) + place.offset)
    assert float(gap.abs().max()) <= 0.5 + 1e-4
    there = place.within(view)
    inside = there.sample(torch.ones(1, 8, 8, 8)) > 0.999
    assert float(inside.float().mean()) > 0.4
    twice = there.sample(view.sample(volume))
    assert torch.allclose(twice[inside], place.sample(volume)[inside], atol=0.1)


def test_the_same_generator_draws_the_same_crop():
    first = draw_crop((9, 9, 9), (4, 4, 4), center=None, generator=seeded(5))
    second = draw_crop((9, 9, 9), (4, 4, 4), center=None, generator=seeded(5))
    assert torch.equal(first.matrix, second.matrix)
    assert torch.equal(first.offset, second.offset)


def test_a_requested_centre_lies_in_the_crop():
    for seed in range(20):
        wanted = torch.tensor([10, 12, 7])
        place = draw_crop((24, 24, 24), (10, 10, 10), center=wanted, generator=seeded(seed))
        at = torch.linalg.solve(place.matrix, wanted - place.offset)
        assert ((at > -0.5) & (at < 9.5)).all()


@given(st.integers(0, 10_000))
def test_varied_intensities_stay_finite_and_keep_their_shape(seed):
    image = torch.randn(1, 6, 6, 6, generator=seeded(1))
    varied = vary_intensity(image, generator=seeded(seed))
    assert varied.shape == image.shape
    assert torch.isfinite(varied).all()


def test_varying_leaves_the_original_alone_and_repeats_with_its_seed():
    image = torch.randn(1, 6, 6, 6, generator=seeded(1))
    before = image.clone()
    first, second = (vary_intensity(image, generator=seeded(4)) for _ in range(2))
    assert torch.equal(image, before)
    assert torch.equal(first, second)
    assert not torch.equal(first, image)


def test_a_constant_image_or_a_slice_can_be_varied():
    for shape in [(1, 4, 4, 4), (1, 8, 8, 1)]:
        for seed in range(10):
            assert torch.isfinite(vary_intensity(torch.zeros(shape), generator=seeded(seed))).all()
