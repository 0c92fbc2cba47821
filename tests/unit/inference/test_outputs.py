import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from uncol.data.frame import Space, choose_space
from uncol.data.grid import Grid, Volume
from uncol.data.scan import read_label, read_scan, write_volume
from uncol.inference.outputs import (
    LabelFound,
    SegmentSettings,
    _around,
    bands,
    overlay,
    segment,
)
from uncol.inference.summary import summarize
from uncol.networks.student import StudentOutput
from uncol.uncertainty.calibration import Band, Calibration
from uncol.uncertainty.quality import fit_quality
from uncol.versions.metrics import dice

LABELS = {"body": 1, "core": 2}
CPU = torch.device("cpu")


class ByIntensity(nn.Module):
    """Says class 2 above 1.5 deviations, class 1 above 0, background below: a known answer."""

    def forward(self, image: torch.Tensor) -> StudentOutput:
        logits = torch.cat([-40 * image, 20 - abs(image - 0.75) * 40, 40 * (image - 1.5)], dim=1)
        return StudentOutput(logits[:, None].expand(-1, 4, -1, -1, -1, -1), image, [])


def summary(result, labels, calibration, *, version):
    """What a client gets."""
    return summarize(result, labels, calibration, version=version).model_dump(mode="json")


def ball(shape: tuple[int, int, int], spacing: np.ndarray) -> np.ndarray:
    """Return intensities of an off-centre ball with a bright core, in mm."""
    places = np.moveaxis(np.indices(shape), 0, -1) * spacing
    centre = np.array(shape) * spacing * [0.45, 0.55, 0.5]
    radius = np.linalg.norm(places - centre, axis=-1) / (np.array(shape) * spacing).min()
    return np.where(radius < 0.2, 3.0, np.where(radius < 0.38, 1.0, 0.0)).astype(np.float32)


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (a for a in range(3) if a != axis)
        step = np.eye(3)
        step[[first, second], [first, second]] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        result = result @ step
    return result


def make_scan(order, flips, angles, spacing) -> tuple[Volume, np.ndarray]:
    """Return a ball stored in any axis order, direction and obliquity, and its true label."""
    shape = tuple(int(n) for n in np.maximum(np.rint(60 / np.array(spacing)), 6))
    intensity = ball(shape, np.array(spacing))
    axes = np.eye(3)[:, list(order)] * np.array(flips)
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) @ axes @ np.diag(spacing)
    affine[:3, 3] = [-31.0, 12.5, 7.25]
    truth = np.select([intensity > 2, intensity > 0.5], [2, 1], 0)
    return Volume(intensity, Grid(shape, affine)), truth


def run(scan: Volume, space: Space, calibration: Calibration = Calibration()):  # noqa: B008
    return segment(
        ByIntensity(),
        scan,
        SegmentSettings(space, "mr", (24, 24, 24), LABELS),
        device=CPU,
        calibration=calibration,
    )


ORIENTATIONS = st.tuples(
    st.sampled_from(list(itertools.permutations(range(3)))),
    st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
)


@given(
    ORIENTATIONS,
    st.tuples(*[st.floats(-0.5, 0.5)] * 3),
    st.sampled_from([(2.0, 2.0, 2.0), (1.5, 1.5, 6.0), (6.0, 1.5, 1.5), (2.0, 3.0, 2.5)]),
)
def test_a_known_shape_comes_back_where_it_lies(orientation, angles, spacing) -> None:
    scan, truth = make_scan(*orientation, angles, spacing)
    result = run(scan, choose_space([scan.grid]))
    assert result.label.shape == scan.grid.shape == result.uncertainty.shape
    assert result.grid is scan.grid
    np.testing.assert_array_equal(result.label, truth)  # no resampling: exact


@given(ORIENTATIONS, st.tuples(*[st.floats(-0.5, 0.5)] * 3))
def test_a_known_shape_survives_another_working_voxel_size(orientation, angles) -> None:
    scan, truth = make_scan(*orientation, angles, (2.0, 2.0, 2.0))
    result = run(scan, Space("RAS", (2.5, 2.5, 1.6)))
    assert result.label.shape == scan.grid.shape
    assert dice(result.label > 0, truth > 0) > 0.93  # half a voxel around the rim of a small ball


def test_a_structure_that_is_single_comes_back_in_one_piece() -> None:
    scan, truth = make_scan((1, 0, 2), (-1.0, 1.0, 1.0), (0.2, 0.1, 0.0), (2.0, 2.0, 2.0))
    scan.array[:3, :3, :3] = 1.0  # looks like the body, far from it
    space, calibration = choose_space([scan.grid]), Calibration()

    def ask(single):
        recipe = SegmentSettings(space, "mr", (24, 24, 24), LABELS, single)
        return segment(ByIntensity(), scan, recipe, device=CPU, calibration=calibration)

    assert (ask(()).label[:3, :3, :3] == 1).all()
    kept = ask(((1, 2), (1,), (2,)))
    np.testing.assert_array_equal(kept.label, truth)
    assert kept.by_label["body"].voxels == (truth == 1).sum()


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("flips", [(1.0, 1.0, 1.0), (-1.0, -1.0, 1.0), (1.0, -1.0, -1.0)])
def test_written_results_have_the_scans_grid(tmp_path, extension, flips) -> None:
    scan, truth = make_scan((0, 2, 1), flips, (0.3, -0.2, 0.1), (1.5, 1.5, 6.0))
    result = run(scan, choose_space([scan.grid]))
    label_path, map_path = tmp_path / f"label{extension}", tmp_path / f"map{extension}"
    write_volume(label_path, result.label, result.grid)
    write_volume(map_path, result.uncertainty, result.grid)
    label, unsure = read_label(label_path), read_scan(map_path)
    assert label.grid.matches(scan.grid, tolerance_voxels=1e-3)
    assert unsure.grid.matches(scan.grid, tolerance_voxels=1e-3)
    np.testing.assert_array_equal(label.array, truth)
    np.testing.assert_allclose(unsure.array, result.uncertainty, atol=1e-6)


def test_a_single_image_comes_back_as_one(tmp_path) -> None:
    flat, truth = make_scan((0, 1, 2), (-1.0, -1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 30.0))
    middle = flat.array.shape[2] // 2
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    grid = Grid((*flat.grid.shape[:2], 1), affine)
    scan = Volume(flat.array[..., middle : middle + 1], grid)
    result = segment(
        ByIntensity(),
        scan,
        SegmentSettings(choose_space([grid]), "mr", (32, 32, 1), LABELS),
        device=CPU,
        calibration=Calibration(),
    )
    np.testing.assert_array_equal(result.label, truth[..., middle : middle + 1])
    write_volume(tmp_path / "label.png", result.label, grid)
    np.testing.assert_array_equal(read_label(tmp_path / "label.png").array, result.label)


def test_bands_are_numbered_from_the_most_uncertain() -> None:
    found = bands(np.array([0.0, 0.24, 0.25, 0.49, 0.5, 1.0]), Calibration())
    assert found.tolist() == [0, 0, 2, 2, 1, 1]


def test_the_overlay_puts_bands_behind_the_anatomys_numbers() -> None:
    label = np.array([0, 1, 2, 2], dtype=np.uint8)
    unsure = np.array([0.0, 0.1, 0.3, 0.9])
    assert overlay(label, unsure, 2, Calibration()).tolist() == [0, 1, 4, 3]


def test_temperatures_change_the_map_and_not_the_label() -> None:
    scan, _ = make_scan((0, 2, 1), (1.0, -1.0, 1.0), (0.1, 0.0, 0.2), (2.0, 2.0, 2.0))
    space = Space("RAS", (2.5, 2.5, 2.5))
    raw, soft = run(scan, space), run(scan, space, Calibration(temperatures=(4.0, 6.0, 0.5)))
    np.testing.assert_array_equal(raw.label, soft.label)
    assert not np.allclose(soft.uncertainty, raw.uncertainty, atol=0.01)
    assert soft.by_label["body"].confidence == raw.by_label["body"].confidence


def test_calibrated_thresholds_make_the_bands() -> None:
    strict = Calibration(high=Band(threshold=0.9), medium=Band(threshold=0.6))
    assert bands(np.array([0.5, 0.7, 0.95]), strict).tolist() == [0, 2, 1]


def test_the_summary_says_what_clients_rely_on() -> None:
    scan, _ = make_scan((0, 1, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    told = summary(run(scan, choose_space([scan.grid])), LABELS, Calibration(), version=4)
    assert told["model_version"] == 4
    assert told["quality"]["band"] == "check"  # nothing is accepted before calibration
    assert told["quality"]["dice"] == pytest.approx(1.0, abs=0.01)
    low, high = told["quality"]["interval"]
    assert 0 <= low <= high <= 1
    assert set(told["quality"]["per_label"]) == set(LABELS)


def test_a_student_that_finds_nothing_asks_for_a_redo() -> None:
    scan, _ = make_scan((0, 1, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))

    class Nothing(nn.Module):
        def forward(self, image: torch.Tensor) -> StudentOutput:
            logits = torch.cat([image * 0 + 9, image * 0, image * 0], dim=1)
            return StudentOutput(logits[:, None].expand(-1, 4, -1, -1, -1, -1), image, [])

    result = segment(
        Nothing(),
        scan,
        SegmentSettings(choose_space([scan.grid]), "mr", (24, 24, 24), LABELS),
        device=CPU,
        calibration=Calibration(),
    )
    told = summary(result, LABELS, Calibration(), version=1)
    assert told["quality"] == {
        "dice": 0.0,
        "interval": [0.0, 1.0],
        "calibrated": False,
        "band": "redo",
        "observed": None,
        "per_label": {"body": None, "core": None},
    }
    assert told["rois"] == []


def test_a_calibrated_estimate_comes_with_an_interval_and_what_its_band_was_worth() -> None:
    scan, _ = make_scan((0, 1, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    confidence = {name: [0.9, 0.95, 0.97, 0.99] for name in LABELS}
    dice_of = {name: [0.70, 0.76, 0.77, 0.80] for name in LABELS}
    quality = fit_quality(confidence, dice_of, confidence)
    result = run(scan, choose_space([scan.grid]))
    told = summary(result, LABELS, Calibration(quality=quality), version=1)["quality"]
    assert told["calibrated"]
    assert 0.7 < told["dice"] < 0.85  # it is sure of itself, and such cases turned out so
    assert told["interval"][0] < told["dice"] < told["interval"][1]
    assert told["observed"] == {"cases": 4, "below": 0}


def test_a_label_that_is_missed_is_never_accepted() -> None:
    scan, _ = make_scan((0, 1, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    result = run(scan, choose_space([scan.grid]))
    values = {name: [0.90, 0.92, 0.95, 0.99] for name in LABELS}
    calibration = Calibration(quality=fit_quality(values, values, values))
    whole = summary(result, LABELS, calibration, version=1)["quality"]
    found = {**result.by_label, "core": LabelFound(float("nan"), 0.0, 0)}
    lacking = summary(replace(result, by_label=found), LABELS, calibration, version=1)["quality"]
    assert whole["band"] == "accept"
    assert lacking["dice"] < 0.51
    assert lacking["band"] == "redo"


def test_the_rim_of_a_single_slice_is_not_the_whole_object() -> None:
    mask = np.zeros((40, 40, 1), dtype=bool)
    mask[5:35, 5:35] = True
    unsure = np.where(ndimage.binary_erosion(mask[..., 0], iterations=4)[..., None], 0.0, 0.8)
    assert _around(unsure.astype(np.float32), mask) == pytest.approx(0.8)
