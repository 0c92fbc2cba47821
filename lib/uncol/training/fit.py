"""From a split pool to a student and the manifest that says how it was made."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from uncol.data.cases import Pool
from uncol.data.prepared import TrainingCase
from uncol.generalist.open import open_generalist
from uncol.generalist.pool import Generalist
from uncol.generalist.probe import STEPS, cross_validate
from uncol.generalist.probe import fit as fit_probe
from uncol.inference.one_piece import Structures, find_one_piece, structure_names
from uncol.method.recipe import RECIPES, Recipe
from uncol.networks.student import Student
from uncol.packages import package_versions
from uncol.round_settings import RoundSettings
from uncol.storage.files import GIB
from uncol.storage.model_folder import checkpoint_in
from uncol.training.checkpoint import Checkpoint
from uncol.training.loop import Trainer, TrainingData
from uncol.training.plan import make_plan
from uncol.training.pool import PreparedPool, prepare_pool, read_grids
from uncol.training.reporter import Reporter
from uncol.training.run import new_run
from uncol.training.start import Origin, Start, choose_start
from uncol.training.step import Method
from uncol.training.uncol import UNCOL
from uncol.versions.loaded import LoadedStudent
from uncol.versions.manifest import Manifest, Options, Plan

CONTINUED_RATE = 1.0  # of the preset's rate, where a round goes on from a version
NEW_AGAIN = 1  # more draws of a case that the version did not learn from, per draw of another


@dataclass(frozen=True)
class Fitted:
    """A trained student, not judged yet.

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

    def loaded(self, device: torch.device) -> LoadedStudent:
        """Return it as it would be served, uncalibrated."""
        return LoadedStudent(self.student, self.manifest, device)


@dataclass(frozen=True)
class Begun:
    """A run that has begun, or goes on where it was killed.

    Attributes:
        prepared: what it learns from.
        trainer: gives its steps.
        manifest: how the student is made.
        checkpoint: where the run is kept.
    """

    prepared: PreparedPool
    trainer: Trainer
    manifest: Manifest
    checkpoint: Checkpoint


def fit(
    pool: Pool, settings: RoundSettings, reporter: Reporter, runs: Path, origin: Origin | str
) -> Fitted:
    """Train on a pool. If the same run was killed before, it resumes from its last checkpoint.

    Args:
        pool: what trains and what never does.
        settings: what the run is made with.
        reporter: receives its progress.
        runs: folder of the checkpoint.
        origin: a version that the round may go on from, or why there is none.

    Raises:
        TrainingError: the pool cannot be trained on.
        ScanError: an annotated case's scan cannot be used.
        LabelError: annotations cannot be used; the message lists all such cases.
        WeightsError: the generalist cannot be loaded.
        StorageError: something could not be written.
    """
    reporter.phase("reading scans")
    grids, left_out = read_grids(pool)
    start = choose_start(origin, pool, list(grids.values()), settings)
    reporter.phase(start.text)
    prepared = prepare_pool(pool, start.sizes, settings, left_out)
    absent = prepared.absent(settings.labels)
    if absent:
        reporter.phase(
            f"no annotated scan that trains holds {', '.join(absent)}: the student will not find it"
        )
    plan = make_plan(
        len(prepared.labeled),
        len(prepared.unlabeled),
        gpu=settings.device.type == "cuda",
        scale=settings.step_scale,
        continued=start.origin is not None,
    )
    recipe = RECIPES[settings.mode]
    begun = begin(prepared, plan, UNCOL, recipe, settings, reporter, runs, start)
    return train(begun, reporter)


def train(begun: Begun, reporter: Reporter) -> Fitted:
    """Train to the end of the plan; the run is kept on disk as it goes.

    Raises:
        TrainingError: the GPU's memory does not suffice.
        StorageError: something could not be written.
    """
    trainer = begun.trainer
    for step in trainer.run():
        reporter.step(step)
        begun.checkpoint.keep(trainer)
    begun.checkpoint.save(trainer)  # the run can still be killed while it is judged
    student = trainer.state.deployed(trainer.recipe)
    return Fitted(student, begun.manifest, begun.prepared.left_out, begun.checkpoint)


def begin(
    prepared: PreparedPool,
    plan: Plan,
    method: Method,
    recipe: Recipe,
    settings: RoundSettings,
    reporter: Reporter,
    runs: Path,
    start: Start | None = None,
) -> Begun:
    """Begin a run on a prepared pool, or go on with it from its last checkpoint.

    Args:
        prepared: the pool.
        plan: the budget.
        method: what a step learns from.
        recipe: what the run does.
        settings: the rest.
        reporter: receives its progress.
        runs: folder of the checkpoint.
        start: what it begins with, for the sizes of `prepared`; random weights if not given.

    Raises:
        TrainingError: the pool cannot be trained on.
        WeightsError: the generalist cannot be loaded.
        StorageError: something could not be written.
    """
    reporter.planned(plan)
    sizes = prepared.sizes
    origin = start.origin if start else None
    recipe = recipe.with_mixing(sizes.preset.mix_until, crop_share=sizes.crop_share)
    one_piece = _one_piece(prepared.labeled, recipe, settings, reporter)
    manifest = _manifest(prepared, plan, recipe, settings, one_piece).model_copy(
        update={"start": start.text if start else "", "parent": origin and origin.parent}
    )
    checkpoint = Checkpoint(checkpoint_in(runs), _key(manifest))
    generalist = _look(prepared, plan, recipe, settings, reporter)
    run = new_run(
        sizes.preset,
        len(settings.labels) + 1,
        generalist=generalist,
        seed=settings.seed,
        device=settings.device,
    )
    labeled, preset = prepared.labeled, sizes.preset
    if origin is not None:
        run.begin_with(origin.student)
        labeled = [*labeled, *NEW_AGAIN * origin.newly_labeled(labeled)]
        preset = replace(preset, rate=CONTINUED_RATE * preset.rate)
    trainer = Trainer(
        run,
        preset,
        plan,
        method,
        recipe,
        TrainingData(labeled, prepared.unlabeled, generalist),
        device=settings.device,
    )
    if checkpoint.restore(trainer):
        reporter.phase("resuming from the last checkpoint")
    return Begun(prepared, trainer, manifest, checkpoint)


def _manifest(
    prepared: PreparedPool,
    plan: Plan,
    recipe: Recipe,
    settings: RoundSettings,
    one_piece: Structures,
) -> Manifest:
    """Return how the round is made."""
    sizes = prepared.sizes
    return Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        labels=dict(settings.labels),
        preset=sizes.name,
        spec=sizes.preset.spec,
        window=sizes.preset.crop,
        mix_until=recipe.mix_until or 0.0,
        axcodes=sizes.space.axcodes,
        spacing_mm=sizes.space.spacing_mm,
        modality=settings.modality,
        one_piece=one_piece,
        mode=settings.mode,
        generalist=settings.generalist,
        seed=settings.seed,
        cases={
            "labeled": [case.name for case in prepared.labeled],
            "unlabeled": [case.name for case in prepared.unlabeled],
            "held_out": [case.name for case in prepared.pool.held_out],
            "left_out": sorted(prepared.left_out),
        },
        digests=prepared.digests(),
        options=Options(
            step_scale=settings.step_scale,
            labeled_only=settings.labeled_only,
            device=settings.device.type,
            threads=torch.get_num_threads(),
            cache_gb=settings.cache_gb,
            teacher_weights=str(settings.generalist_weights or ""),
        ),
        packages=package_versions(),
        plan=plan,
        idle=settings.idle,
    )


def _one_piece(
    labeled: Sequence[TrainingCase], recipe: Recipe, settings: RoundSettings, reporter: Reporter
) -> Structures:
    """Return what predictions keep in one piece."""
    if not (recipe.one_piece and settings.one_piece):
        return ()
    annotations = (case.label[0] for case in labeled if case.label is not None)
    structures = find_one_piece(annotations, settings.labels)
    for names in structure_names(structures, settings.labels):
        reporter.phase(f"one piece in all annotated scans, and so in predictions: {names}")
    return structures


def _key(manifest: Manifest) -> str:
    """Return a digest of everything that decides a round's weights."""
    decisive = manifest.model_dump_json(
        exclude={"created", "accuracy", "gate", "version", "one_piece", "start"}
    )
    return hashlib.sha256(decisive.encode()).hexdigest()


def _look(
    prepared: PreparedPool,
    plan: Plan,
    recipe: Recipe,
    settings: RoundSettings,
    reporter: Reporter,
) -> Generalist | None:
    """Let the generalist look at all cases, and decide on which labels it is heeded."""
    reporter.phase("choosing the plane of the generalist")
    generalist = open_generalist(prepared.labeled, recipe, settings)
    if generalist is None:
        return None
    classes = len(settings.labels) + 1
    total = len(prepared.labeled) + len(prepared.unlabeled)
    room = settings.cache_gb * GIB // total  # per case; more would push others out of the cache
    for done, case in enumerate((*prepared.labeled, *prepared.unlabeled), start=1):
        reporter.phase(f"generalist looks at case {done} of {total}")
        slices = plan.labeled_slices if case.label is not None else plan.unlabeled_slices
        fitting = max(1, room // generalist.view_bytes(case, slices, classes))
        generalist.look(case, min(slices, fitting))
        if case.label is not None:
            generalist.prompt_annotation(case, classes)
    generalist.cache.trim()
    if recipe.probe:
        _fit_probe(generalist, prepared.labeled, settings, reporter)
    if recipe.weigh_generalist:
        worths = generalist.weigh(prepared.labeled, classes)
        for name, worth in zip(settings.labels, worths, strict=True):
            if not worth.heeded:
                reporter.phase(
                    f"generalist is not heeded on {name}: from perfect boxes its masks have a "
                    f"Dice of {worth.dice:.2f}, the boxes themselves {worth.box:.2f}"
                )
    return generalist


def _fit_probe(
    generalist: Generalist,
    labeled: Sequence[TrainingCase],
    settings: RoundSettings,
    reporter: Reporter,
) -> None:
    reporter.phase("fitting a probe to the generalist's features of annotated scans")
    views = list(generalist.annotated_views(labeled))
    classes, seed, device = len(settings.labels) + 1, settings.seed, settings.device
    steps = max(1, round(STEPS * min(1.0, settings.step_scale)))
    judged = cross_validate(views, classes, seed=seed, device=device, steps=steps)
    if judged is None:
        return
    generalist.probe = fit_probe(
        views, classes, seed=seed, device=device, judged=judged, steps=steps
    )
    per_label = ", ".join(
        f"{name} {dice:.2f}" for name, dice in zip(settings.labels, judged.dice, strict=True)
    )
    reporter.phase(f"Dice of probes in annotated scans that they were not fit to: {per_label}")
