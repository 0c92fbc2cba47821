"""Calibrate a published version on annotated cases that the judged students never trained on.

With enough held-out cases the published student itself is judged on them. Before that, every
label is needed for training, so students of the same kind are trained on three quarters of the
labels each and judged on the rest (cross-fitting). Their error rates near the foreground stand in
for those of the published student, which saw a third more labels. Its confidence is matched to
these rates on its own predictions of unlabeled cases.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from uncol.calibration.evidence import CasePrediction, Evidence, Judge, read_voxels
from uncol.calibration.label_check import Doubt
from uncol.data.cases import Case
from uncol.data.prepared import TrainingCase
from uncol.networks.student import Student
from uncol.round_settings import RoundSettings
from uncol.storage.files import write_json, write_text
from uncol.storage.model_folder import VersionNotes
from uncol.training.loop import Trainer, TrainingData
from uncol.training.plan import make_plan
from uncol.training.presets import PRESETS
from uncol.training.reporter import Reporter
from uncol.training.run import new_run
from uncol.training.uncol import UNCOL
from uncol.types import Array
from uncol.uncertainty.calibration import (
    Calibration,
    Voxels,
    blend,
    error_curve,
    error_rates,
    find_bands,
    join,
    match_temperatures,
    tempered,
)
from uncol.uncertainty.measure import row_uncertainty
from uncol.uncertainty.quality import fit_quality
from uncol.versions.loaded import read_calibration
from uncol.versions.manifest import Manifest, Plan
from uncol.versions.store import ModelStore

FOLDS = 4
FOLD_STEPS = 0.3  # of a round's: as many as the estimates were measured with
FEWEST_LABELED = 4  # for cross-fitting; with fewer, a fold's student would learn from one or two
FEWEST_HELD_OUT = 4
OWN_CASES = 20  # unlabeled cases that show how sure the published student is


def read_doubts(store: ModelStore, version: int) -> list[Doubt]:
    """Return the submitted labels in doubt, worst first; empty before calibration."""
    try:
        entries = json.loads(store.folder.notes(version).doubts.read_text())
    except FileNotFoundError:
        return []
    return [Doubt.model_validate(entry) for entry in entries]


def calibrate(
    cases: Sequence[Case], version: int, settings: RoundSettings, reporter: Reporter
) -> Calibration:
    """Calibrate a version, or return its calibration if there is one. A killed run resumes.

    Args:
        cases: the pool; of its annotated cases, those count that the version knows.
        version: a published version.
        settings: as for training.
        reporter: receives the phases.

    Raises:
        WeightsError: the version or the generalist cannot be loaded.
        StorageError: something could not be written.
    """
    store = ModelStore(settings.model_dir)
    notes = store.folder.notes(version)
    if notes.calibration.exists():
        return read_calibration(store, version)
    student, manifest = store.load(version)
    judge = Judge(manifest, settings, notes, reporter)
    judges = _judge_pool(judge, cases, student)
    evidence = judge.evidence.read()
    judged = {name: one for name, one in evidence.items() if name in judges.names}
    calibration = fit(judged, notes, manifest.labels, own=judges.own, source=judges.source)
    doubts = [one.doubt for one in evidence.values() if one.doubt is not None]
    doubts.sort(key=lambda doubt: -doubt.share)
    write_json(notes.doubts, [doubt.model_dump() for doubt in doubts])
    write_text(notes.calibration, calibration.model_dump_json())
    return calibration


@dataclass(frozen=True)
class _Judges:
    """Which cases count in a calibration, and how the published student itself predicts."""

    source: str
    names: frozenset[str]
    own: Own | None


def _judge_pool(judge: Judge, cases: Sequence[Case], student: Student) -> _Judges:
    """Judge a student, or others of its kind, on annotated cases that the version knows."""
    held_out, trained = (_annotated(cases, judge, part) for part in ("held_out", "labeled"))
    if len(held_out) >= FEWEST_HELD_OUT:
        judge.look(judge.load(held_out + trained), student.to(judge.settings.device))
        return _Judges("held_out", _names(held_out), None)
    if len(trained) >= FEWEST_LABELED:
        loaded = judge.load(trained)
        _cross_fit(judge, loaded)
        unlabeled = [case for case in cases if case.label is None]
        return _Judges(
            "cross_fit", _names(trained), _look_at_own(judge, unlabeled, loaded, student)
        )
    return _Judges("none", frozenset(), None)


def _annotated(cases: Sequence[Case], judge: Judge, part: str) -> list[Case]:
    """Return the annotated cases of a part of the version's pool."""
    names = judge.manifest.cases[part]
    return [case for case in cases if case.label is not None and case.name in names]


def _names(cases: Sequence[Case]) -> frozenset[str]:
    return frozenset(case.name for case in cases)


@dataclass(frozen=True)
class Own:
    """How the published student itself predicts, where others stand in for it in the evidence.

    Attributes:
        probs: `(n, C)` probabilities of voxels near the predicted foreground of unlabeled cases.
        confidence: by label, Soft Dice Confidence on each unlabeled case.
        learned: voxels of the cases it learned from.
        learned_confidence: by label, its confidence on those.
        learned_dice: by label, its Dice on those.
    """

    probs: Array
    confidence: dict[str, list[float]]
    learned: Voxels
    learned_confidence: dict[str, list[float]]
    learned_dice: dict[str, list[float]]


def fit(
    evidence: Mapping[str, Evidence],
    notes: VersionNotes,
    labels: Mapping[str, int],
    *,
    own: Own | None,
    source: str,
) -> Calibration:
    """Fit temperatures, error curve, bands and quality.

    Args:
        evidence: what annotated cases showed.
        notes: where their voxels lie.
        labels: name to value.
        own: how the published student predicts, if others stand in for it in the evidence.
        source: see `Calibration`.
    """
    rows = [evidence[name] for name in sorted(evidence)]
    parts = [read_voxels(notes, row.case) for row in rows]
    if not any(len(part.truth) for part in parts):
        return Calibration()
    judged = join(parts)
    confidence = {label: [_or_nan(row.confidence[label]) for row in rows] for label in labels}
    dice = {label: [_or_nan(row.dice[label]) for row in rows] for label in labels}
    if own is None:
        source_probs, rates = judged.probs, error_rates(judged)
        quality = fit_quality(confidence, dice, confidence)
    else:
        source_probs, rates = own.probs, blend(error_rates(judged), error_rates(own.learned))
        learned = (own.learned_confidence, own.learned_dice)
        quality = fit_quality(confidence, dice, own.confidence, learned)
    temperatures = match_temperatures(source_probs, rates, cases=len(rows))
    probs = tempered(source_probs, temperatures)
    unsure, error = row_uncertainty(probs), 1 - probs.max(axis=1)
    curve = error_curve(unsure, error)
    high, medium = find_bands(curve, unsure, error)
    return Calibration(
        source=source,
        cases=len(rows),
        temperatures=temperatures,
        curve=curve,
        high=high,
        medium=medium,
        quality=quality,
    )


def _look_at_own(
    judge: Judge, unlabeled: Sequence[Case], learned: Sequence[TrainingCase], student: Student
) -> Own | None:
    """Predict unlabeled and learned cases with the published student; None without both."""
    judge.reporter.phase("calibrating: comparing with the published student")
    student = student.to(judge.settings.device)
    some = sorted(unlabeled, key=lambda case: case.name)
    some = some[:: max(1, len(some) // OWN_CASES)][:OWN_CASES]
    unseen = _seen_by(judge, judge.read(some), student)
    known = _seen_by(judge, learned, student)
    if not any(len(one.voxels.truth) for one in unseen) or not known:
        return None
    return Own(
        probs=join([one.voxels for one in unseen]).probs,
        confidence=_by_label([one.confidence for one in unseen]),
        learned=join([one.voxels for one in known]),
        learned_confidence=_by_label([one.confidence for one in known]),
        learned_dice=_by_label([one.dice for one in known]),
    )


def _seen_by(judge: Judge, cases: Iterable[TrainingCase], student: Student) -> list[CasePrediction]:
    return [judge.see(case, student) for case in cases]


def _cross_fit(judge: Judge, cases: Sequence[TrainingCase]) -> None:
    for number, (train, judged) in enumerate(folds(cases), start=1):
        if all(case.name in judge.evidence.read() for case in judged):
            continue
        judge.reporter.phase(f"calibrating: student {number} of {FOLDS}, on {len(train)} labels")
        judge.look(judged, _fold_student(judge, train, seed=judge.settings.seed + number))


def folds(cases: Sequence[TrainingCase]) -> Iterator[tuple[list[TrainingCase], list[TrainingCase]]]:
    """Yield what trains and what is judged, so that every case is judged once."""
    ordered = sorted(cases, key=lambda case: case.key)  # by content: names must not matter
    for fold in range(min(FOLDS, len(ordered))):
        judged = ordered[fold::FOLDS]
        yield [case for case in ordered if case not in judged], judged


def _fold_student(judge: Judge, train: Sequence[TrainingCase], *, seed: int) -> Student:
    """Train a student of the published one's kind on some labels, in stage 2 alone.

    In stage 1 the heads learn four different losses, and their mean is far less sure than after
    stage 2.
    """
    manifest, device = judge.manifest, judge.settings.device
    steps = max(1, round(FOLD_STEPS * whole_steps(manifest)))
    plan = Plan(0, steps, 1, 1, prompt_every=steps)
    preset = replace(PRESETS[manifest.preset], spec=manifest.spec, crop=manifest.window)
    run = new_run(preset, len(manifest.labels) + 1, generalist=None, seed=seed, device=device)
    trainer = Trainer(
        run,
        preset,
        plan,
        UNCOL,
        manifest.recipe,
        TrainingData(train, [], None),
        device=device,
    )
    for _ in trainer.run():
        pass
    return run.deployed(manifest.recipe)


def whole_steps(manifest: Manifest) -> int:
    """Return the steps of a round on the version's pool that begins with random weights."""
    labeled, unlabeled = (len(manifest.cases[part]) for part in ("labeled", "unlabeled"))
    options = manifest.options
    # an idle round's scale is its own length, not what somebody asked for
    scale = 1.0 if manifest.idle else options.step_scale
    return make_plan(labeled, unlabeled, gpu=options.device == "cuda", scale=scale).steps


def _by_label(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
