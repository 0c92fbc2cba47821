import numpy as np
import pytest
import torch

from uncol.data.frame import Space
from uncol.data.grid import Grid, Volume
from uncol.data.preprocess import normalize, prepare


def draw(shape=(1, 12, 12, 12), seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("modality", ["ct", "mr", "auto"])
def test_the_result_has_mean_zero_and_deviation_one(modality):
    result = normalize(draw() * 300 - 100, modality)
    assert float(result.mean()) == pytest.approx(0, abs=1e-5)
    assert float(result.std()) == pytest.approx(1, abs=1e-4)


def test_ct_is_clipped_to_its_window():
    values = torch.tensor([-1000.0, -200, 50, 300, 3000]).reshape(1, 5, 1, 1)
    clipped = torch.tensor([-200.0, -200, 50, 300, 300])
    expected = (clipped - clipped.mean()) / clipped.std()
    assert torch.allclose(normalize(values, "ct").flatten(), expected)


@pytest.mark.parametrize(("lowest", "like"), [(-1000.0, "ct"), (-499.0, "mr"), (0.0, "mr")])
def test_auto_takes_a_scan_with_air_for_ct(lowest, like):
    image = draw().abs() * 200
    image[0, 0, 0, 0] = lowest
    assert torch.equal(normalize(image, "auto"), normalize(image, like))


def test_a_bright_mr_outlier_changes_little():
    clean = draw((1, 20, 20, 20))
    spoiled = clean.clone()
    spoiled[0, 3, 3, 3] = 1e6
    gap = (normalize(clean, "mr") - normalize(spoiled, "mr")).abs()
    gap[0, 3, 3, 3] = 0
    assert float(gap.max()) < 0.05


def test_mr_does_not_depend_on_the_scanner_s_scale():
    image = draw()
    assert torch.allclose(normalize(image, "mr"), normalize(image * 37 + 500, "mr"), atol=1e-4)


def test_a_scan_that_is_nearly_all_background_is_not_emptied():
    image = torch.zeros(1, 16, 16, 16)
    image[0, 8, 8, 8] = 5.0
    result = normalize(image, "mr")
    assert result[0, 8, 8, 8] > 10
    assert torch.isfinite(result).all()


def test_a_window_without_contrast_gives_no_infinity():
    assert torch.isfinite(normalize(torch.full((1, 4, 4, 4), 900.0), "ct")).all()


def test_more_voxels_than_the_quantile_takes_are_thinned():
    image = torch.linspace(0, 1, 2_100_000).reshape(1, 100, 100, 210)
    assert float(normalize(image, "mr").max()) < 1.8  # sqrt(3) of a uniform distribution


def test_a_prepared_scan_lies_in_the_working_frame():
    array = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    prepared = prepare(
        Volume(array, Grid(array.shape, np.diag([-1.0, 1, 2, 1]))), Space("RAS", (1, 1, 1)), "mr"
    )
    assert prepared.image.shape == (1, 4, 6, 6)
    assert prepared.frame.to_scan(prepared.image).shape == (1, 4, 6, 3)


def test_preparing_leaves_the_scan_as_it_was():
    array = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)
    before = array.copy()
    prepare(Volume(array, Grid(array.shape, np.eye(4))), Space("RAS", (1, 1, 1)), "ct")
    np.testing.assert_array_equal(array, before)
