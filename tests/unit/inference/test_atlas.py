import numpy as np
import pytest
from scipy import ndimage

from uncol.data.grid import Grid, Volume
from uncol.errors import NoLongerWantedError
from uncol.inference import atlas as module
from uncol.inference.atlas import Atlas, carry
from uncol.wanted import wanted_until

SHAPE = (40, 36, 24)
STRAIGHT = np.diag([-1.0, -1.0, 1.0, 1.0])


def body(moved=0, size=1.0):
    """Return a scan with smooth anatomy and its label, moved by some voxels and scaled."""
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 3) * 20
    middle = np.array([20, 18, 12])
    axes = np.indices(SHAPE) - middle[:, None, None, None]
    ball = (axes**2).sum(axis=0) < 36
    matrix = np.eye(3) / size
    offset = middle - matrix @ (middle + np.array([moved, 0, 0]))
    scan, label = (
        ndimage.affine_transform(one.astype(float), matrix, offset, order=1, mode="nearest")
        for one in (texture + 4 * ball, ball)
    )
    noise = np.random.default_rng(moved + 1).normal(size=SHAPE) * 0.2
    return (scan + noise).astype(np.float32), (label > 0.5).astype(np.uint8)


def volume(array, affine=STRAIGHT):
    return Volume(np.ascontiguousarray(array, dtype=np.float32), Grid(array.shape, affine))


def atlas(moved=0, size=1.0):
    scan, label = body(moved, size)
    return Atlas(volume(scan), label)


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_a_label_follows_its_structure():
    scan, truth = body(5, 1.2)
    carried = carry([atlas()], volume(scan))
    assert carried.dtype == np.uint8
    assert dice(atlas().label, truth) < 0.6
    assert dice(carried, truth) > 0.9


def test_it_is_found_in_a_grid_that_runs_the_other_way():
    scan, truth = body(5)
    turned = np.diag([1.0, -1.0, 1.0, 1.0])
    turned[0, 3] = 1 - SHAPE[0]
    carried = carry([atlas()], volume(scan[::-1], turned))
    assert dice(carried[::-1], truth) > 0.9


def test_the_vote_of_an_atlas_that_looks_otherwise_weighs_little():
    scan, truth = body(3)
    odd = np.random.default_rng(9).normal(size=SHAPE)
    wrong = [Atlas(volume(odd * strength), np.roll(truth, 8, axis=1)) for strength in (1, 2)]
    assert dice(carry([atlas(), *wrong], volume(scan)), truth) > 0.85


def test_large_scans_are_registered_on_fewer_voxels(monkeypatch):
    asked = []
    real = module._registered
    monkeypatch.setattr(module, "COARSE_VOXELS", 6000)
    monkeypatch.setattr(module, "FINE_VOXELS", 20000)
    monkeypatch.setattr(
        module, "_registered", lambda a, b: asked.append((a.GetSize(), b.GetSize())) or real(a, b)
    )
    scan, truth = body(3)
    carried = carry([atlas()], volume(scan))
    assert carried.shape == SHAPE
    assert asked == [((20, 18, 12), (20, 18, 12))]
    assert dice(carried, truth) > 0.75


def test_registration_ends_between_two_levels_once_nobody_waits():
    asked = []

    def gone():
        asked.append(1)
        return len(asked) == 2

    with wanted_until(gone), pytest.raises(NoLongerWantedError):
        carry([atlas()], volume(body(2)[0]))
    assert len(asked) == 2
