"""The demo's pool: real anatomy, varied, and the same for the same seed."""

import numpy as np
import pytest

from uncol.data.scan import read_label, read_scan
from uncol.demo.pool import BRAIN_LABELS, make_case, make_pool

CASES = range(3)


@pytest.fixture(scope="module")
def cases():
    return [make_case(np.random.default_rng([0, number])) for number in CASES]


def test_every_case_shows_every_label(cases):
    for _, label, _ in cases:
        voxels = [int((label == value).sum()) for value in range(1, len(BRAIN_LABELS) + 1)]
        assert min(voxels) > 100
        assert label.max() == len(BRAIN_LABELS)


def test_a_case_trains_quickly(cases):
    for scan, _, grid in cases:
        assert scan.shape == grid.shape
        assert max(grid.shape) <= 64


def test_cases_differ_in_shape_and_voxel_size(cases):
    assert len({grid.spacing_mm for _, _, grid in cases}) == len(cases)
    assert len({grid.shape for _, _, grid in cases}) > 1


def test_the_same_seed_gives_the_same_case(cases):
    again, label, _ = make_case(np.random.default_rng([0, 0]))
    np.testing.assert_array_equal(again, cases[0][0])
    np.testing.assert_array_equal(label, cases[0][1])


def test_a_structure_stands_out_from_the_air(cases):
    scan, label, _ = cases[0]
    air = np.percentile(scan[label == 0], 10)
    assert all(scan[label == value].mean() > 2 * air for value in (1, 2))


def test_scans_and_labels_have_the_same_names_and_grids(tmp_path):
    labels = make_pool(tmp_path / "studies", tmp_path / "truth", cases=2, seed=0)
    assert labels == ",".join(BRAIN_LABELS)
    names = sorted(path.name for path in (tmp_path / "studies").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "truth").iterdir())
    for name in names:
        scan = read_scan(tmp_path / "studies" / name)
        assert scan.grid.matches(read_label(tmp_path / "truth" / name).grid)
