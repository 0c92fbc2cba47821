"""One round of training: from the pool's cases to a published version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from uncol.data.cases import HELD_OUT_FROM, Case, Pool
from uncol.errors import TrainingError, WeightsError
from uncol.round_settings import RoundSettings
from uncol.training.fit import fit
from uncol.training.idle import next_idle_round
from uncol.training.reporter import Reporter
from uncol.training.start import Origin, served_origin
from uncol.versions.gate import accuracy, compare
from uncol.versions.loaded import LoadedStudent, judge, load_version
from uncol.versions.manifest import Verdict
from uncol.versions.split import FrozenSplit
from uncol.versions.store import ModelStore

LEAST_LABELED = 2


@dataclass(frozen=True)
class Outcome:
    """The result of a round.

    Attributes:
        version: number of the new version.
        verdict: whether it is served now, and why.
        served: number of the version that is served now.
        left_out: why each left-out unlabeled case was left out.
        start: what the round began with, in a sentence.
    """

    version: int
    verdict: Verdict
    served: int
    left_out: dict[str, str]
    start: str


def check_pool(labeled: Sequence[str], unlabeled: Sequence[str], *, labeled_only: bool) -> None:
    """Refuse pools that cannot be trained on.

    Raises:
        TrainingError: fewer than two annotated cases, or none unlabeled without `labeled_only`.
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
    """Train on a pool; publish the student unless it is worse than the served one.

    A round that goes on from the served version and ends worse than it is followed by one that
    begins with random weights. If a round of the same pool and settings was killed, it resumes from
    its last checkpoint.

    Raises:
        TrainingError: the pool cannot be trained on.
        ScanError: an annotated case's scan cannot be used.
        LabelError: annotations cannot be used; the message lists all such cases.
        WeightsError: the generalist cannot be loaded.
        StorageError: something could not be written.
    """
    store = ModelStore(settings.model_dir)
    annotated_names = sorted(case.name for case in cases if case.label is not None)
    others = sorted(case.name for case in cases if case.label is None)
    check_pool(annotated_names, others, labeled_only=settings.labeled_only)
    pool = FrozenSplit(store.folder.split).of(cases)
    outcome = _train(pool, store, settings, reporter, served_origin(store, pool, settings))
    gone_on = store.manifest(outcome.version).parent is not None
    if gone_on and not outcome.verdict.published:
        outcome = _train(pool, store, settings, reporter, served_origin(store, pool, settings))
    return outcome


def train_idle(cases: Sequence[Case], settings: RoundSettings, reporter: Reporter) -> Outcome | str:
    """Let the served student go on learning; returns why not, if nothing is to be gained.

    Raises: as `train_round`.
    """
    store = ModelStore(settings.model_dir)
    chosen = next_idle_round(store, cases, settings)
    if isinstance(chosen, str):
        return chosen
    return _train(chosen.pool, store, chosen.settings, reporter, chosen.origin)


def _train(
    pool: Pool,
    store: ModelStore,
    settings: RoundSettings,
    reporter: Reporter,
    origin: Origin | str,
) -> Outcome:
    runs = store.folder.idle_runs if settings.idle else store.folder.runs
    fitted = fit(pool, settings, reporter, runs, origin)
    reporter.phase("judging on held-out cases")
    candidate = fitted.loaded(settings.device)
    dice, verdict = _judged(candidate, pool.held_out, store, settings)
    parent = fitted.manifest.parent
    if settings.idle and (parent is None or store.current() != parent.version):
        why = "Not published: nobody asked for it, and another version is served by now."
        verdict = Verdict(published=False, reason=why, reference=store.current())
    manifest = fitted.manifest.model_copy(
        update={"accuracy": accuracy(dice, source="held_out"), "gate": verdict}
    )
    reporter.phase("publishing")
    version = store.publish(fitted.student, manifest)
    fitted.checkpoint.remove()
    served = store.current() or version
    return Outcome(version, verdict, served, fitted.left_out, manifest.start)


def _judged(
    candidate: LoadedStudent, held_out: Sequence[Case], store: ModelStore, settings: RoundSettings
) -> tuple[dict[str, dict[str, float]], Verdict]:
    """Judge the candidate, and compare it with the served version if that knows the same labels."""
    released = candidate.manifest.recipe.empty_scores_zero
    dice = judge(candidate, held_out, released=released)
    version = store.current()
    if version is None:
        return dice, Verdict(published=True, reason="Published: it is the first version.")
    try:
        served = load_version(store, version, settings.device)
    except WeightsError as error:
        why = str(error)
    else:
        if served.manifest.labels != candidate.manifest.labels:
            why = f"version {version} knows other labels"
        elif not held_out:
            why = f"below {HELD_OUT_FROM} labeled cases none is held out from training"
        else:
            # both are judged without a one-piece rule that has ended: it must not decide
            still = tuple(s for s in served.manifest.one_piece if s in candidate.manifest.one_piece)
            before = judge(served.with_one_piece(still), held_out, released=released)
            return dice, compare(dice, before, version)
    reason = f"Published without a comparison with version {version}: {why}."
    return dice, Verdict(published=True, reason=reason, reference=version)
