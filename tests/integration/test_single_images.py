"""A pool of single images: train on PNG files and get PNG labels back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from uncol.data.cases import Case
from uncol.data.scan import read_label, read_scan, write_volume
from uncol.demo.pool import make_case
from uncol.round_settings import RoundSettings
from uncol.training.reporter import Reporter
from uncol.training.round import train_round
from uncol.versions.loaded import load_version
from uncol.versions.metrics import dice
from uncol.versions.store import ModelStore

pytestmark = pytest.mark.integration
LABELS = {"cerebellum": 1}


def make_images(folder: Path) -> list[Case]:
    """Write coronal slices of real anatomy as 8-bit PNG, labels for half of them."""
    cases = []
    for number in range(8):
        scan, label, _ = make_case(np.random.default_rng([5, number]))
        index = int((label == 1).sum(axis=(0, 2)).argmax())
        image = scan[:, index]
        grey = (255 * image / image.max()).astype(np.uint8)
        mask = (label[:, index] == 1).astype(np.uint8)
        paths = [folder / f"slice{number}.png", folder / f"label{number}.png"]
        for path, array in zip(paths, (grey, mask), strict=True):
            sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(array.T)), str(path))
        cases.append(Case(f"slice{number}", paths[0], paths[1] if number < 4 else None))
    return cases


def test_png_images_train_and_come_back_as_png(tmp_path: Path) -> None:
    cases = make_images(tmp_path)
    settings = RoundSettings(
        labels=LABELS,
        preset="auto",
        generalist="litemedsam",
        generalist_weights=None,
        mode="intended",
        modality="auto",
        model_dir=tmp_path / "model",
        device=torch.device("cpu"),
        step_scale=0.3,
    )
    outcome = train_round(cases, settings, Reporter())
    store = ModelStore(tmp_path / "model")
    published = load_version(store, outcome.version, torch.device("cpu"))
    assert published.manifest.preset == "small2d"
    scan = read_scan(cases[6].image)
    result = published.segment(scan)
    write_volume(tmp_path / "result.png", result.label, result.grid)
    written = read_label(tmp_path / "result.png")
    assert written.grid.shape == scan.grid.shape
    truth = read_label(tmp_path / "label6.png").array
    assert dice(written.array == 1, truth == 1) > 0.7
