"""One round of training: from the pool's cases to a published version."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from uncol.data.cases import Case, Pool, split
from uncol.data.frame import Space, choose_space, make_frame
from uncol.data.scan import Grid, read_grid
from uncol.errors import LabelError, ScanError, TrainingError
from uncol.inference.predict import predict
from uncol.method.mode import MODES
from uncol.networks.presets import Preset, choose_preset, fit_preset
from uncol.networks.student import Student
from uncol.training.evaluate import dice_per_label
from uncol.training.generalist import Generalist, open_generalist
from uncol.training.loop import Trainer, new_run
from uncol.training.plan import Plan, make_plan
from uncol.training.settings import Reporter, RoundSettings
from uncol.training.store import CaseStore, TrainingCase, annotated
from uncol.training.versions import Manifest, ModelStore, spec_to

LEAST_LABELED = 2
PACKAGES = ("torch", "monai", "monailabel", "numpy", "uncol")


@dataclass(frozen=True)
class Outcome:
    """What a round gave.

    Attributes:
        version: number of the published version.
        metrics: Dice a label on held-out cases; empty when none are held out.
        left_out: why each left-out unlabeled case was left out.
    """

    version: int
    metrics: dict[str, float]
    left_out: dict[str, str]


def check_pool(labeled: Sequence[str], unlabeled: Sequence[str], *, labeled_only: bool) -> None:
    """Refuse pools that cannot be trained on.

    Raises:
        TrainingError: under two annotated cases, or nothing unlabeled and not asked for that.
    """
    if len(labeled) < LEAST_LABELED:
        only = f" ('{labeled[0]}')" if labeled else ""
        raise TrainingError(
            f"Training needs {LEAST_LABELED} or more labeled cases, got {len(labeled)}{only}. "
            "Fetch a case with Next Sample, segment it and submit the label, then train."
        )
    if not unlabeled and not labeled_only:
        raise TrainingError(
            f"All {len(labeled)} cases are labeled (the last is '{labeled[-1]}'): there is nothing "
            "unlabeled to learn from. Add scans to the studies folder, or set the training option "
            "labeled_only to train on the labels alone."
        )


def train_round(cases: Sequence[Case], settings: RoundSettings, reporter: Reporter) -> Outcome:
    """Train on a pool and publish the student.

    Raises:
        TrainingError: the pool cannot be trained on.
        ScanError: an annotated case's scan cannot be used.
        LabelError: annotations cannot be used; the message lists all such cases.
        WeightsError: the generalized teacher cannot be loaded.
        StorageError: something could not be written.
    """
    pool = split(cases)
    names = [[case.name for case in part] for part in (pool.labeled, pool.unlabeled)]
    check_pool(names[0], names[1], labeled_only=settings.labeled_only)
    reporter.phase("reading scans")
    grids, left_out = _grids(pool)
    space = choose_space(list(grids.values()))
    prepared = _prepare(pool, settings, space, left_out)
    preset_name, preset = _preset(list(grids.values()), space, settings)
    gpu = settings.device.type == "cuda"
    plan = make_plan(
        len(prepared.labeled), len(prepared.unlabeled), gpu=gpu, scale=settings.step_scale
    )
    reporter.planned(plan)
    generalist = _generalist(prepared, plan, settings, reporter)
    run = new_run(
        preset,
        len(settings.labels) + 1,
        generalist=generalist,
        seed=settings.seed,
        device=settings.device,
    )
    trainer = Trainer(
        run,
        preset,
        plan,
        labeled=prepared.labeled,
        unlabeled=prepared.unlabeled,
        generalist=generalist,
        mode=MODES[settings.mode],
        device=settings.device,
    )
    for step in trainer.run():
        reporter.step(step)
    student = run.deployed(settings.mode)
    reporter.phase("judging on held-out cases")
    metrics = judge(student, prepared.held_out, preset, settings)
    manifest = Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        labels=dict(settings.labels),
        preset=preset_name,
        spec=spec_to(preset.spec),
        window=preset.crop,
        axcodes=space.axcodes,
        spacing_mm=space.spacing_mm,
        modality=settings.modality,
        mode=settings.mode,
        teacher=settings.teacher,
        seed=settings.seed,
        cases={
            "labeled": [case.name for case in prepared.labeled],
            "unlabeled": [case.name for case in prepared.unlabeled],
            "held_out": [case.name for case in prepared.held_out],
            "left_out": sorted(left_out),
        },
        metrics=metrics,
        packages={name: _version(name) for name in PACKAGES},
        plan=asdict(plan),
    )
    reporter.phase("publishing")
    version = ModelStore(settings.model_dir / "uncol").publish(student, manifest)
    return Outcome(version, metrics, left_out)


def judge(
    student: Student, cases: Sequence[TrainingCase], preset: Preset, settings: RoundSettings
) -> dict[str, float]:
    """Return each label's mean Dice over held-out cases, through the serving code."""
    rows = []
    for case in cases:
        image = case.tensor()
        found = predict(student, image, preset.crop, device=settings.device).probs.argmax(dim=0)
        if case.label is not None:
            released = MODES[settings.mode].empty_scores_zero
            rows.append(
                dice_per_label(found.numpy(), case.label[0], settings.labels, released=released)
            )
    if not rows:
        return {}
    return {name: float(np.nanmean([row[name] for row in rows])) for name in settings.labels}


@dataclass(frozen=True)
class _Prepared:
    labeled: list[TrainingCase]
    unlabeled: list[TrainingCase]
    held_out: list[TrainingCase]


def _grids(pool: Pool) -> tuple[dict[str, Grid], dict[str, str]]:
    """Read all grids; unlabeled scans that cannot be read are left out with the reason."""
    grids: dict[str, Grid] = {}
    left_out: dict[str, str] = {}
    for case in (*pool.labeled, *pool.held_out):
        grids[case.name] = read_grid(case.image, case=case.name)
    for case in pool.unlabeled:
        try:
            grids[case.name] = read_grid(case.image, case=case.name)
        except ScanError as error:
            left_out[case.name] = str(error)
    return grids, left_out


def _prepare(
    pool: Pool, settings: RoundSettings, space: Space, left_out: dict[str, str]
) -> _Prepared:
    """Prepare all cases. A bad annotation stops the round: leaving it out would lose work."""
    folder = settings.model_dir / "cache" / "prepared"
    store = CaseStore(folder, space, modality=settings.modality, labels=settings.labels)
    mistakes: list[str] = []

    def annotated(cases: Sequence[Case]) -> list[TrainingCase]:
        loaded = []
        for case in cases:
            try:
                loaded.append(store.load(case))
            except (LabelError, ScanError) as error:
                mistakes.append(str(error))
        return loaded

    labeled, held_out = annotated(pool.labeled), annotated(pool.held_out)
    if mistakes:
        raise LabelError("\n".join(mistakes))
    unlabeled = []
    for case in pool.unlabeled:
        if case.name in left_out:
            continue
        try:
            unlabeled.append(store.load(case))
        except ScanError as error:
            left_out[case.name] = str(error)
    return _Prepared(labeled, unlabeled, held_out)


def _preset(grids: list[Grid], space: Space, settings: RoundSettings) -> tuple[str, Preset]:
    shapes = np.array([make_frame(grid, space).working.shape for grid in grids])
    size_i, size_j, size_k = (int(size) for size in np.median(shapes, axis=0))
    shape = (size_i, size_j, size_k)
    name = choose_preset(settings.preset, shape=shape, gpu=settings.device.type == "cuda")
    if name.endswith("3d") and shape[2] == 1:
        raise TrainingError(
            f"Preset {name} is for volumes, but the scans are single images. "
            "Start the server with --conf preset auto or small2d."
        )
    return name, fit_preset(name, shape=shape, spacing_mm=space.spacing_mm)


def _generalist(
    prepared: _Prepared, plan: Plan, settings: RoundSettings, reporter: Reporter
) -> Generalist | None:
    reporter.phase("choosing the plane of the generalized teacher")
    generalist = open_generalist(prepared.labeled, settings)
    if generalist is None:
        return None
    classes = len(settings.labels) + 1
    total = len(prepared.labeled) + len(prepared.unlabeled)
    for done, case in enumerate((*prepared.labeled, *prepared.unlabeled), start=1):
        reporter.phase(f"generalized teacher looks at case {done} of {total}")
        slices = plan.labeled_slices if case.label is not None else plan.unlabeled_slices
        generalist.look(case, slices)
        if case.label is not None:
            label, _ = annotated(torch.from_numpy(case.label[0]))
            generalist.prompt(case, label, classes, None)
    generalist.cache.trim()
    return generalist


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "source"
