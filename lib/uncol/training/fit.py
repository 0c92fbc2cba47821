"""From a split pool to a student and the manifest that says how it was made."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from uncol.data.annotation import read_annotation
from uncol.data.cases import Case, Pool
from uncol.data.frame import Space, choose_space, make_frame
from uncol.data.prepared import CaseStore, TrainingCase
from uncol.data.scan import Grid, read_grid
from uncol.errors import LabelError, ScanError, TrainingError
from uncol.generalist.open import open_generalist
from uncol.generalist.pool import Generalist
from uncol.inference.pieces import Structures, single_structures, structure_names
from uncol.method.recipe import MODES
from uncol.networks.student import Student
from uncol.round_settings import RoundSettings
from uncol.storage.files import GIB, file_digest
from uncol.storage.trim import trim
from uncol.training.checkpoint import CHECKPOINT, Checkpoint
from uncol.training.loop import Trainer
from uncol.training.plan import Plan, make_plan
from uncol.training.presets import PRESETS, Preset, Shape, choose_preset, fit_preset
from uncol.training.reporter import Reporter
from uncol.training.resolution import coarsen
from uncol.training.run import new_run
from uncol.versions.manifest import Manifest, spec_to

PACKAGES = ("torch", "monai", "monailabel", "numpy", "uncol")


@dataclass(frozen=True)
class Fitted:
    """A trained student that nobody has judged yet.

    Attributes:
        student: what would be deployed.
        manifest: how it was made.
        left_out: why each left-out unlabeled case was left out.
        checkpoint: where the run was kept; to be removed once the student is safe.
    """

    student: Student
    manifest: Manifest
    left_out: dict[str, str]
    checkpoint: Checkpoint


def fit(
    pool: Pool,
    settings: RoundSettings,
    reporter: Reporter,
    runs: Path,
    *,
    make_trainer: type[Trainer] = Trainer,
    plan: Plan | None = None,
    like: Sequence[Case] = (),
) -> Fitted:
    """Train on a pool. The same run, killed before, goes on from its last checkpoint.

    Args:
        pool: what trains and what never does.
        settings: what the run is made with.
        reporter: hears how it goes.
        runs: folder of the checkpoint.
        make_trainer: what trains; benchmarks compare other methods with it.
        plan: the budget, if it is not what the pool's size and the device give.
        like: cases whose grids choose voxel size and crop beside the pool's own; with the same ones
            here, and the same annotated ones, methods that train on different parts of a pool train
            the same student.

    Raises:
        TrainingError: the pool cannot be trained on.
        ScanError: an annotated case's scan cannot be used.
        LabelError: annotations cannot be used; the message lists all such cases.
        WeightsError: the generalized teacher cannot be loaded.
        StorageError: something could not be written.
    """
    reporter.phase("reading scans")
    grids, left_out = _grids(pool)
    all_grids = {case.name: read_grid(case.image, case=case.name) for case in like} | grids
    shaping = [all_grids[name] for name in sorted(all_grids)]
    sizes = _choose_sizes(shaping, pool, settings)
    prepared = _prepare(pool, settings, sizes.space, left_out)
    plan = plan or make_plan(
        len(prepared.labeled),
        len(prepared.unlabeled),
        gpu=settings.device.type == "cuda",
        scale=settings.step_scale,
    )
    reporter.planned(plan)
    single = _single(prepared.labeled, settings, reporter)
    manifest = _manifest(pool, prepared, sizes, plan, settings, left_out, single)
    checkpoint = Checkpoint(runs / CHECKPOINT, _key(manifest))
    student = _train(prepared, sizes.preset, plan, settings, reporter, checkpoint, make_trainer)
    return Fitted(student, manifest, left_out, checkpoint)


def _manifest(
    pool: Pool,
    prepared: _Prepared,
    sizes: _Sizes,
    plan: Plan,
    settings: RoundSettings,
    left_out: Mapping[str, str],
    single: Structures,
) -> Manifest:
    """Return how the round is made."""
    return Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        labels=dict(settings.labels),
        preset=sizes.name,
        spec=spec_to(sizes.preset.spec),
        window=sizes.preset.crop,
        mix_until=sizes.preset.mix_until,
        axcodes=sizes.space.axcodes,
        spacing_mm=sizes.space.spacing_mm,
        modality=settings.modality,
        single=single,
        mode=settings.mode,
        teacher=settings.teacher,
        seed=settings.seed,
        cases={
            "labeled": [case.name for case in prepared.labeled],
            "unlabeled": [case.name for case in prepared.unlabeled],
            "held_out": [case.name for case in pool.held_out],
            "left_out": sorted(left_out),
        },
        digests=_digests(pool, prepared),
        options={
            "step_scale": settings.step_scale,
            "labeled_only": settings.labeled_only,
            "device": settings.device.type,
            "threads": torch.get_num_threads(),
            "cache_gb": settings.cache_gb,
            "teacher_weights": str(settings.teacher_weights or ""),
        },
        packages=package_versions(),
        plan=asdict(plan),
    )


def _train(
    prepared: _Prepared,
    preset: Preset,
    plan: Plan,
    settings: RoundSettings,
    reporter: Reporter,
    checkpoint: Checkpoint,
    make_trainer: type[Trainer],
) -> Student:
    generalist = _generalist(prepared, plan, settings, reporter)
    run = new_run(
        preset,
        len(settings.labels) + 1,
        generalist=generalist,
        seed=settings.seed,
        device=settings.device,
    )
    trainer = make_trainer(
        run,
        preset,
        plan,
        labeled=prepared.labeled,
        unlabeled=prepared.unlabeled,
        generalist=generalist,
        mode=MODES[settings.mode],
        device=settings.device,
    )
    if checkpoint.restore(trainer):
        reporter.phase("going on from the last checkpoint")
    for step in trainer.run():
        reporter.step(step)
        checkpoint.keep(trainer)
    checkpoint.save(trainer)  # what follows can be killed, too
    return run.deployed(settings.mode)


@dataclass(frozen=True)
class _Prepared:
    labeled: list[TrainingCase]
    unlabeled: list[TrainingCase]


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
    labeled, unlabeled = [], []
    for case in pool.labeled:
        try:
            labeled.append(store.load(case))
        except (LabelError, ScanError) as error:
            mistakes.append(str(error))
    for case in pool.held_out:
        try:
            read_annotation(case, read_grid(case.image, case=case.name), settings.labels)
        except (LabelError, ScanError) as error:
            mistakes.append(str(error))
    if mistakes:
        raise LabelError("\n".join(mistakes))
    for case in pool.unlabeled:
        if case.name in left_out:
            continue
        try:
            unlabeled.append(store.load(case))
        except ScanError as error:
            left_out[case.name] = str(error)
    trim(folder, settings.cache_gb * GIB)
    return _Prepared(labeled, unlabeled)


def _single(
    labeled: Sequence[TrainingCase], settings: RoundSettings, reporter: Reporter
) -> Structures:
    """Return what predictions keep one piece of; the released code keeps all pieces of all."""
    if settings.mode == "release" or not settings.one_piece:
        return ()
    annotations = (case.label[0] for case in labeled if case.label is not None)
    single = single_structures(annotations, settings.labels)
    for names in structure_names(single, settings.labels):
        reporter.phase(f"one piece in all annotated scans, and so in predictions: {names}")
    return single


def _digests(pool: Pool, prepared: _Prepared) -> dict[str, tuple[str, str]]:
    """Return what the round was made of: by case, of its prepared scan and its label file."""
    keys = {case.name: case.key for case in (*prepared.labeled, *prepared.unlabeled)}
    return {
        case.name: (
            keys.get(case.name) or file_digest(case.image),
            file_digest(case.label) if case.label is not None else "",
        )
        for case in (*pool.labeled, *pool.held_out, *pool.unlabeled)
        if case.name in keys or case.label is not None
    }


def _key(manifest: Manifest) -> str:
    """Return a digest of all that decides a round's weights."""
    decisive = manifest.model_dump_json(
        exclude={"created", "accuracy", "gate", "version", "single"}
    )
    return hashlib.sha256(decisive.encode()).hexdigest()


@dataclass(frozen=True)
class _Sizes:
    """How large voxels, student and crops are; `preset` is the one of that name, fitted."""

    space: Space
    name: str
    preset: Preset


def _choose_sizes(grids: list[Grid], pool: Pool, settings: RoundSettings) -> _Sizes:
    own = choose_space(grids)
    gpu = settings.device.type == "cuda"
    name = choose_preset(settings.preset, shape=_median_shape(grids, own), gpu=gpu)
    most, flat = PRESETS[name].voxels, PRESETS[name].spec.dims == 2
    space = coarsen(own, pool.labeled, settings.labels, voxels=most, flat=flat)
    shape = _median_shape(grids, space)
    if not flat and shape[2] == 1:
        raise TrainingError(
            f"Preset {name} is for volumes, but the scans are single images. "
            "Start the server with --conf preset auto or small2d."
        )
    return _Sizes(space, name, fit_preset(name, shape=shape, spacing_mm=space.spacing_mm))


def _median_shape(grids: list[Grid], space: Space) -> Shape:
    shapes = np.array([make_frame(grid, space).working.shape for grid in grids])
    size_i, size_j, size_k = (int(size) for size in np.median(shapes, axis=0))
    return (size_i, size_j, size_k)


def _generalist(
    prepared: _Prepared, plan: Plan, settings: RoundSettings, reporter: Reporter
) -> Generalist | None:
    reporter.phase("choosing the plane of the generalized teacher")
    generalist = open_generalist(prepared.labeled, settings)
    if generalist is None:
        return None
    classes = len(settings.labels) + 1
    total = len(prepared.labeled) + len(prepared.unlabeled)
    room = settings.cache_gb * GIB // total  # a case; more would only push others out of the cache
    for done, case in enumerate((*prepared.labeled, *prepared.unlabeled), start=1):
        reporter.phase(f"generalized teacher looks at case {done} of {total}")
        slices = plan.labeled_slices if case.label is not None else plan.unlabeled_slices
        fitting = max(1, room // generalist.view_bytes(case, slices, classes))
        generalist.look(case, min(slices, fitting))
        if case.label is not None:
            generalist.prompt_annotation(case, classes)
    generalist.cache.trim()
    if settings.mode != "release":  # which heeds it whatever it is worth
        for name, worth in zip(
            settings.labels, generalist.weigh(prepared.labeled, classes), strict=True
        ):
            if not worth.heeded:
                reporter.phase(
                    f"generalized teacher is not heeded on {name}: from perfect boxes its masks "
                    f"have a Dice of {worth.dice:.2f}, the boxes themselves {worth.box:.2f}"
                )
    return generalist


def package_versions() -> dict[str, str]:
    """Return the versions of what decides a round's result."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "source"
