"""kill -9 at random moments of training, publishing, saving labels and scoring.

`make faults N=200` kills that often; by default it is a few. Children are forked, so that a kill
costs a second and not the import of torch.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from uncol.data.scan import read_label
from uncol.datastores.folder import StudiesFolder
from uncol.datastores.pool import cases_of
from uncol.round_settings import RoundSettings
from uncol.selection.scores import scores_of
from uncol.selection.survey import survey
from uncol.storage.files import file_digest
from uncol.storage.model_folder import checkpoint_in
from uncol.training import checkpoint
from uncol.training.reporter import Reporter
from uncol.training.round import train_round
from uncol.versions.store import ModelStore

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("UNCOL_FAULTS", "24"))
SEED = int(os.environ.get("UNCOL_FAULTS_SEED", "0"))
LABELS = {"ball": 1}
SHAPE = (24, 24, 16)
LABELED = 5
UNLABELED = 4
FORK = multiprocessing.get_context("fork")


@dataclass
class Hospital:
    """A studies folder and a model folder that processes are killed in."""

    studies: Path
    model_dir: Path
    random: np.random.Generator
    kills: dict[str, int] = field(default_factory=dict)

    def settings(self, **changes: object) -> RoundSettings:
        return RoundSettings(
            labels=LABELS,
            preset="tiny3d",
            generalist="none",
            generalist_weights=None,
            mode="intended",
            modality="mr",
            model_dir=self.model_dir,
            device=torch.device("cpu"),
            step_scale=0.02,
            **changes,
        )

    @property
    def models(self) -> ModelStore:
        return ModelStore(self.model_dir)

    def datastore(self, *, read_only: bool = False) -> StudiesFolder:
        return StudiesFolder(str(self.studies), labels=LABELS, read_only=read_only)

    def kill(self, what: str, work: Callable[[], object], longest_s: float) -> bool:
        """Run work in a child and kill it; returns whether it ended before that."""
        child = FORK.Process(target=work)
        child.start()
        child.join(self.random.uniform(0, longest_s))
        ended = not child.is_alive()
        if ended:
            assert child.exitcode == 0, f"{what} failed by itself"
        else:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            self.kills[what] = self.kills.get(what, 0) + 1
        return ended


@pytest.fixture(scope="module")
def hospital(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "studies").mkdir()
    made = Hospital(folder / "studies", folder / "model", np.random.default_rng(SEED))
    checkpoint.CHECKPOINT_EVERY_S = 0.0  # after every step
    for number in range(LABELED + UNLABELED):
        label = a_ball(number)
        scan = (label * 2 + np.random.default_rng(number).normal(size=SHAPE)).astype(np.float32)
        nib.save(nib.Nifti1Image(scan, np.eye(4)), made.studies / f"case{number}.nii.gz")
    store = made.datastore()
    for number in range(LABELED):
        store.save_label(f"case{number}", str(written(folder / "l.nii.gz", number)), "final", {})
    yield made
    told = request.config.get_terminal_writer()
    told.line(f"\nkilled {sum(made.kills.values())} times: {made.kills}, seed {SEED}")


def share(fifths: int) -> int:
    return -(-KILLS * fifths // 5)


def a_ball(number: int, radius: float = 5) -> np.ndarray:
    axes = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    center = (9 + number % 5, 10 + number % 4, 8)
    return (sum((a - c) ** 2 for a, c in zip(axes, center, strict=True)) < radius**2).astype(
        np.uint8
    )


def written(path: Path, number: int, radius: float = 5) -> Path:
    nib.save(nib.Nifti1Image(a_ball(number, radius), np.eye(4)), path)
    return path


def weights_of(models: ModelStore, version: int) -> torch.Tensor:
    student, _ = models.load(version)
    return torch.cat([value.double().flatten() for value in student.state_dict().values()])


def assert_models_are_whole(hospital: Hospital) -> None:
    """Whatever is listed or served can be loaded."""
    models = hospital.models
    for version in models.versions():
        assert models.load(version)[1].version == version
    assert models.current() in (None, *models.versions())


def test_training_and_publishing_go_on_to_the_very_same_student(hospital: Hospital) -> None:
    cases = cases_of(hospital.datastore(read_only=True))
    whole = Hospital(hospital.studies, hospital.model_dir / "whole", hospital.random)
    start = time.monotonic()
    child = FORK.Process(target=train_round, args=(cases, whole.settings(), Reporter()))
    child.start()
    child.join()
    assert child.exitcode == 0
    took = time.monotonic() - start
    expected = weights_of(whole.models, 1)

    settings, seed = hospital.settings(), 0
    wanted = share(2)
    while hospital.kills.get("training", 0) < wanted:
        before = hospital.models.versions()
        ended = hospital.kill(
            "training", lambda s=settings: train_round(cases, s, Reporter()), 0.8 * took
        )
        assert_models_are_whole(hospital)
        if ended:  # however often it was killed
            (new,) = set(hospital.models.versions()) - set(before)
            if seed == 0:
                assert torch.equal(weights_of(hospital.models, new), expected)
            assert not (checkpoint_in(hospital.models.folder.runs)).exists()
            seed += 1
            settings = hospital.settings(seed=seed % 2)
    if seed == 0:
        train_round(cases, settings, Reporter())
        assert torch.equal(weights_of(hospital.models, hospital.models.current()), expected)


def test_publishing_is_all_or_nothing(hospital: Hospital) -> None:
    models = ModelStore(hospital.model_dir / "published")
    student, manifest = hospital.models.load(hospital.models.current())

    def publish() -> None:
        while True:
            models.publish(student, manifest)
            if len(models.versions()) > 3:
                models.gc(1)

    for _ in range(share(1)):
        before = models.current() or 0
        hospital.kill("publishing", publish, 0.3)
        for version in models.versions():
            assert models.load(version)[1].version == version
        assert models.current() is None or models.current() in models.versions()
        assert (models.current() or 0) >= before
    models.publish(student, manifest)  # no lock or partial file is in the way
    assert models.load(models.current())


def test_a_label_is_the_old_or_the_new_one_and_nothing_is_lost(
    hospital: Hospital, tmp_path: Path
) -> None:
    files = [written(tmp_path / f"{radius}.nii.gz", 0, radius) for radius in (3, 4, 6, 7)]
    digests = {file_digest(path): path for path in files}
    said = tmp_path / "acknowledged"
    said.touch()
    case = f"case{LABELED}"

    def submit() -> None:
        store = hospital.datastore()
        for number in itertools.count(len(said.read_text().split())):
            path = files[number % len(files)]
            store.save_label(case, str(path), "final", {"user": "ada"})
            with said.open("a") as stream:
                stream.write(file_digest(path) + "\n")

    for _ in range(share(1)):
        hospital.kill("label", submit, 0.5)
        acknowledged = said.read_text().split()
        store = hospital.datastore()
        for number in range(LABELED):  # the others' labels are as they were
            label = read_label(store.get_label_uri(f"case{number}", "final")).array
            np.testing.assert_array_equal(label, a_ball(number))
        if not acknowledged:
            continue
        now = file_digest(Path(store.get_label_uri(case, "final")))
        assert now in digests
        kept = [file_digest(one.path) for one in store.history.of(case)]
        assert set(acknowledged) <= {now, *kept}
        assert len(kept) >= len(acknowledged) - 1
        assert now == acknowledged[-1] or now == next_after(acknowledged[-1], list(digests))
        assert all(one.info.get("user") == "ada" for one in store.history.of(case))
    hospital.datastore().remove_label(case, "final")


def next_after(digest: str, digests: list[str]) -> str:
    return digests[(digests.index(digest) + 1) % len(digests)]


def test_scoring_goes_on_where_it_was(hospital: Hospital) -> None:
    cases = cases_of(hospital.datastore(read_only=True))
    models, version = hospital.models, hospital.models.current()
    shown: set[str] = set()
    kills = share(1)
    while hospital.kills.get("scoring", 0) < kills:
        hospital.kill("scoring", lambda: survey(cases, hospital.settings(), Reporter()), 1.5)
        scored = set(scores_of(models.folder, version).read())
        assert shown <= scored  # what was done is not done again, nor lost
        shown = scored
        if len(scored) == UNLABELED:
            scores_of(models.folder, version).path.unlink()
            shown = set()
    survey(cases, hospital.settings(), Reporter())
    assert len(scores_of(models.folder, version).read()) == UNLABELED
    assert models.folder.notes(version).calibration.exists()
