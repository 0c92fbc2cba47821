"""A model folder that 0.2.0 made opens as it is, and its student answers as it did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from uncol.calibration.calibrate import read_doubts
from uncol.data.grid import Grid, Volume
from uncol.experiments.points import read_points
from uncol.experiments.ssl_report import table
from uncol.selection.scores import scores_of
from uncol.settings import parse_settings
from uncol.storage.model_folder import ModelFolder
from uncol.versions.loaded import load_version
from uncol.versions.manifest import Plan
from uncol.versions.metrics import dice_per_label
from uncol.versions.report import list_versions, show_version
from uncol.versions.split import FrozenSplit
from uncol.versions.store import ModelStore

RELEASED = Path(__file__).parents[2] / "released" / "v0.2.0"
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
CPU = torch.device("cpu")
# every setting of 0.2.0, with a value that is not its default
CONF = {
    "labels": '{"a": 1, "b": 2}',
    "preset": "tiny3d",
    "teacher": "none",
    "mode": "release",
    "modality": "mr",
    "pacs_results": "scored",
    "one_piece": "off",
    "max_upload_mb": "8",
    "cache_gb": "3",
}


@pytest.fixture
def store(tmp_path):
    shutil.copytree(RELEASED / "model_dir", tmp_path / "model")
    return ModelStore(tmp_path / "model")


def scan() -> Volume:
    """Return the scan that 0.2.0 was asked about: two balls of other brightness, no noise."""
    shape, affine = (30, 28, 22), np.diag([1.5, 1.5, 2.0, 1.0])
    axes = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"))
    array = np.sin(axes).sum(axis=0) * 4 + 100
    for centre, value in (((10, 14, 11), 60), ((21, 14, 11), 120)):
        gaps = axes - np.array(centre)[:, None, None, None]
        array[(gaps**2).sum(axis=0) < 16] += value
    return Volume(array.astype(np.float32), Grid(shape, affine))


def test_its_student_answers_as_it_did(store):
    student = load_version(store, 1, CPU)
    result = student.segment(scan())
    expected = json.loads((RELEASED / "answer.json").read_text())
    with np.load(RELEASED / "answer.npz") as kept:
        agreement = dice_per_label(result.label, kept["label"], student.manifest.labels)
    assert min(agreement.values()) > 0.98  # another CPU rounds in another way
    told = student.summary(result).model_dump(mode="json")
    assert told.keys() == expected["uncol"].keys()
    for name in ("quality", "uncertainty"):
        assert _close(told[name], expected["uncol"][name])
    assert told["one_piece"] == expected["uncol"]["one_piece"]
    assert [place["label"] for place in told["rois"]] == [
        place["label"] for place in expected["uncol"]["rois"]
    ]


def _close(value: object, other: object) -> bool:
    """Say whether two nested answers agree, numbers within rounding."""
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_close(value[k], other[k]) for k in value)
    if isinstance(value, list) and isinstance(other, list):
        pairs = zip(value, other, strict=True)
        return len(value) == len(other) and all(_close(a, b) for a, b in pairs)
    if not isinstance(value, bool) and isinstance(value, float | int):
        return bool(value == pytest.approx(other, rel=0.05, abs=0.02))
    return value == other


def test_its_manifest_is_read_whole_and_written_the_same(store):
    path = store.folder.manifest(1)
    manifest = store.manifest(1)
    assert (manifest.generalist, manifest.one_piece) == ("none", ((1,), (2,)))
    assert manifest.plan == Plan(126, 118, 6, 2, 59)
    assert manifest.options.step_scale == 0.5
    assert manifest.recipe.mix_until == 0.5
    assert json.loads(manifest.model_dump_json()) == json.loads(path.read_text())


def test_what_was_found_out_about_it_is_read(store):
    scores = scores_of(store.folder, 1).read()
    assert len(scores) == 4
    assert all(0 < score.quality < 1 and score.rois for score in scores.values())
    assert read_doubts(store, 1) == []
    assert set(FrozenSplit(store.folder.split).sides()) == {f"case_{n}" for n in range(4)}


def test_clients_get_the_keys_they_had(store):
    shown = show_version(store, 1)
    assert {"teacher", "single", "spec", "plan", "options"} <= shown.keys()
    (line,) = list_versions(store)
    assert line.model_dump(exclude_unset=True).keys() == {
        *("version", "served", "created", "labeled", "unlabeled", "held_out"),
        *("dice", "interval", "published", "gate"),
    }


def test_every_file_of_it_has_a_name_in_the_layout(store):
    folder = ModelFolder(store.folder.root)
    notes = folder.notes(1)
    named = {
        *(folder.current, folder.split, folder.manifest(1), folder.weights(1)),
        *(notes.calibration, notes.doubts, notes.evidence, notes.scores),
    }
    assert {path for path in folder.root.rglob("*") if path.is_file()} == named


def test_its_settings_are_understood(tmp_path):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"")
    conf = {**CONF, "teacher_weights": str(weights), "model_dir": str(tmp_path)}
    settings, notes = parse_settings(conf)
    assert notes == []
    assert (settings.generalist, settings.generalist_weights) == ("none", weights)
    assert (settings.preset, settings.mode, settings.cache_gb) == ("tiny3d", "release", 3)
    assert settings.for_round(CPU).one_piece is False


@pytest.mark.parametrize("path", sorted(RESULTS.glob("ssl_*.jsonl")), ids=lambda path: path.stem)
def test_result_lines_of_0_2_0_are_read_and_shown(path):
    points = read_points(path)
    assert len(points) == len(path.read_text().splitlines())
    assert len(table(points, "as they were").columns) == 10
