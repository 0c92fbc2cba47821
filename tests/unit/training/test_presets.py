import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uncol.method.recipe import INTENDED
from uncol.networks.student import Student
from uncol.training.presets import PRESETS, choose_preset, crop_share, fit_preset

SHAPES = st.tuples(*[st.integers(1, 200)] * 3)
SPACING = st.sampled_from([(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (1.0, 1.0, 1.9), (0.5, 0.8, 8.0)])


@pytest.mark.parametrize(
    ("shape", "gpu", "expected"),
    [
        ((35, 50, 35), False, "small3d"),
        ((35, 50, 35), True, "paper3d"),
        ((256, 256, 1), False, "small2d"),
        ((256, 256, 1), True, "paper2d"),
    ],
)
def test_auto_looks_at_dimension_and_device(shape, gpu, expected):
    assert choose_preset("auto", shape=shape, gpu=gpu) == expected


def test_a_named_preset_is_taken_as_it_is():
    assert choose_preset("tiny3d", shape=(9, 9, 1), gpu=True) == "tiny3d"


@given(st.sampled_from(sorted(PRESETS)), SHAPES, SPACING)
def test_a_crop_is_made_of_whole_patches_within_the_preset_s_volume(name, shape, spacing):
    fitted = fit_preset(name, shape=shape, spacing_mm=spacing)
    crop, patch = np.array(fitted.crop), np.array(fitted.spec.patch)
    assert (crop % patch == 0).all()
    assert (crop >= patch).all()
    assert crop.prod() <= max(np.prod(PRESETS[name].crop), patch.prod())


@given(st.sampled_from(["tiny3d", "small3d", "paper2d"]), SHAPES, SPACING)
def test_a_crop_holds_less_than_a_patch_of_padding(name, shape, spacing):
    fitted = fit_preset(name, shape=shape, spacing_mm=spacing)
    assert (np.array(fitted.crop) < np.array(shape) + np.array(fitted.spec.patch)).all()


def test_thick_slices_are_not_halved_until_the_pixels_are_as_coarse():
    fitted = fit_preset("paper3d", shape=(256, 256, 32), spacing_mm=(1.0, 1.0, 4.0))
    # 1, 2, 4, 8 mm in plane against 4, 4, 4, 8 mm along the slices
    assert fitted.spec.strides == ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))


def test_a_short_stack_is_not_halved_away():
    fitted = fit_preset("paper3d", shape=(128, 128, 10), spacing_mm=(1.0, 1.0, 1.0))
    assert [stride[2] for stride in fitted.spec.strides] == [2, 1, 1, 1]  # 10 -> 5, under 8


def test_isotropic_scans_keep_the_paper_s_strides():
    fitted = fit_preset("paper3d", shape=(192, 192, 160), spacing_mm=(1.0, 1.0, 1.0))
    assert fitted.spec == PRESETS["paper3d"].spec


def test_large_cubic_scans_get_the_paper_s_crop():
    fitted = fit_preset("paper3d", shape=(256, 256, 256), spacing_mm=(1.0, 1.0, 1.0))
    assert fitted.crop == (128, 128, 128)


def test_large_images_get_the_paper_s_crop():
    assert fit_preset("paper2d", shape=(512, 512, 1), spacing_mm=(1, 1, 1)).crop == (256, 256, 1)


@pytest.mark.parametrize(
    ("name", "shape", "mix_until"),
    [
        ("small3d", (35, 50, 35), 0.5),  # few steps
        ("paper3d", (180, 140, 88), 1.0),  # atria as published
        ("paper3d", (400, 400, 200), 0.0),  # a small part of an abdomen
        ("small2d", (256, 216, 10), 0.0),  # heart slices
        ("paper2d", (256, 216, 10), 1.0),
    ],
)
def test_crops_are_mixed_where_they_hold_enough_of_a_scan(name, shape, mix_until):
    fitted = fit_preset(name, shape=shape, spacing_mm=(1, 1, 1))
    share = crop_share(fitted, shape)
    recipe = INTENDED.with_mixing(fitted.mix_until, crop_share=share)
    assert recipe.mix_until == mix_until


def test_images_have_a_crop_of_one_slice_whatever_the_stack():
    assert fit_preset("tiny2d", shape=(30, 200, 12), spacing_mm=(1, 1, 1)).crop[2] == 1


@pytest.mark.parametrize(
    ("name", "shape", "spacing"),
    [
        ("tiny3d", (9, 14, 1), (1, 1, 1)),
        ("tiny3d", (20, 20, 5), (1, 1, 5)),
        ("tiny2d", (5, 7, 1), (1, 1, 1)),
    ],
)
def test_a_student_accepts_the_crop_it_was_fitted_to(name, shape, spacing):
    fitted = fit_preset(name, shape=shape, spacing_mm=spacing)
    output = Student(fitted.spec, 2)(torch.randn(2, 1, *fitted.crop))
    assert output.logits.shape == (2, 4, 2, *fitted.crop)
    assert torch.isfinite(output.logits).all()
