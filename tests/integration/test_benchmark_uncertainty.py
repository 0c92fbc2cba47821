"""`uncol benchmark uncertainty` end to end on small phantoms, MONAI Label's class included."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from uncol.errors import RequestError
from uncol.experiments.pool import open_pool
from uncol.experiments.uncertainty import Setup, measure
from uncol.training.reporter import Reporter
from uncol.training.round import train_round

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Any) -> Setup:
    """Ten phantoms; a tiny student has been trained on the parts that seed 3 draws."""
    tmp_path = tmp_path_factory.mktemp("phantoms")
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    places = np.moveaxis(np.indices((20, 20, 20)), 0, -1)
    for number in range(10):
        rng = np.random.default_rng(number)
        distance = np.linalg.norm(places - 10 - rng.uniform(-2, 2, 3), axis=-1)
        label = (distance < rng.uniform(4, 6)).astype(np.uint8)
        image = (label + rng.normal(0, rng.uniform(0.2, 0.8), label.shape)).astype(np.float32)
        for folder, array in (("images", image), ("labels", label)):
            odd = array[number % 2 :]  # half are smaller than the window, and of odd size
            nib.save(nib.Nifti1Image(odd, np.eye(4)), tmp_path / folder / f"c{number}.nii.gz")
    made = Setup(open_pool(tmp_path, "ball"), 4, 2, 4, seed=3, model_dir=tmp_path / "model")
    labeled, unlabeled, _ = made.parts()
    settings = tiny_settings(made.model_dir, step_scale=0.12)
    train_round(made.pool.cases(labeled, unlabeled), settings, Reporter())
    return made


def test_both_methods_are_measured_on_the_same_student(setup: Setup) -> None:
    report = measure(setup, Console(quiet=True))
    ours, theirs = (
        report["figures"][name] for name in ("uncol", "MONAI Label epistemic, 5 samples")
    )
    assert (report["labeled"], report["unlabeled"], report["test"]) == (4, 2, 4)
    assert ours["dice"] == theirs["dice"] > 0.3  # one label, judged by both
    for arm in (ours, theirs):
        assert arm["auroc"]["low"] <= arm["auroc"]["value"] <= arm["auroc"]["high"]
        assert 0.5 < arm["auroc"]["value"] <= 1
        assert 0 <= arm["ece"]["value"] < 0.5
        assert len(arm["risk_coverage"]) == 4
        assert arm["seconds"] > 0
    assert 0 <= ours["coverage"]["value"] <= 1
    assert theirs["coverage"] is None  # it gives no interval
    assert theirs["seconds"] > ours["seconds"]  # five passes and more against one


def test_a_student_of_other_cases_is_not_judged(setup: Setup) -> None:
    other = Setup(setup.pool, 4, 2, 4, seed=4, model_dir=setup.model_dir)
    with pytest.raises(RequestError, match="trained on other cases"):
        measure(other, Console(quiet=True))
    with pytest.raises(RequestError, match="holds 10 labeled scans; 46 are needed"):
        Setup(setup.pool, 4, 2, 40, seed=3, model_dir=setup.model_dir).parts()
