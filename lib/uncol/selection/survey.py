"""Find out what the current version thinks of every unlabeled case; runs in the background."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from uncol.calibration.calibrate import calibrate
from uncol.data.cases import Case
from uncol.data.frame import Space, choose_space
from uncol.data.grid import Grid
from uncol.data.prepared import CaseStore
from uncol.data.scan import read_grid, read_scan, write_volume
from uncol.errors import ScanError
from uncol.generalist.models import NO_GENERALIST
from uncol.generalist.open import open_generalist
from uncol.inference.outputs import Segmentation
from uncol.method.recipe import RECIPES
from uncol.round_settings import RoundSettings
from uncol.selection.scores import (
    Embedding,
    LabelScore,
    Score,
    embeddings_of,
    scores_of,
)
from uncol.storage.ledger import Ledger, R
from uncol.training.reporter import Reporter
from uncol.versions.loaded import LoadedStudent, load_version
from uncol.versions.store import ModelStore

logger = logging.getLogger(__name__)

TRIM_EVERY = 100  # embedded cases after which the cache is brought back to its limit
VIEWS = 2  # slices of a case that stand for it in the generalist's space


@dataclass
class Found:
    """What a survey did.

    Attributes:
        scored: cases scored now.
        skipped: cases that had been scored before.
        embedded: cases embedded now.
        left_out: why a case could not be looked at, by name.
    """

    scored: int = 0
    skipped: int = 0
    embedded: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


def survey(cases: Sequence[Case], settings: RoundSettings, reporter: Reporter) -> Found:
    """Calibrate the current version, score what it has not scored, embed what is not embedded.

    Every result is written as soon as it is there, so a killed survey resumes. Before the first
    version, or with one that was trained for other labels, only the embeddings are made: the cold
    start chooses by them.

    Args:
        cases: the pool.
        settings: as for training.
        reporter: receives the phases.

    Raises:
        WeightsError: the version or the generalist cannot be loaded.
        StorageError: something could not be written.
    """
    store = ModelStore(settings.model_dir)
    done = Found()
    version = store.current()
    if version is not None and store.manifest(version).labels == dict(settings.labels):
        calibrate(cases, version, settings, reporter)
        published = load_version(store, version, settings.device)
        _score(store, published, [case for case in cases if case.label is None], reporter, done)
    embed(store, cases, settings, reporter, done)
    return done


@dataclass(frozen=True)
class Missing:
    """What a survey would do.

    Attributes:
        cases: those that it would score or embed.
        calibration: whether it would calibrate the served version.
    """

    cases: frozenset[str] = frozenset()
    calibration: bool = False

    def __bool__(self) -> bool:
        """Say whether there is anything to do."""
        return bool(self.cases) or self.calibration

    @property
    def text(self) -> str:
        """Say it in a few words."""
        return f"{len(self.cases)} cases" + (" and the calibration" if self.calibration else "")


def missing(
    store: ModelStore,
    generalist: str,
    *,
    unlabeled: Mapping[str, str],
    everyone: Mapping[str, str],
) -> Missing:
    """Return what a survey would do.

    Args:
        store: the versions.
        generalist: whose embeddings are wanted.
        unlabeled: the stamp of each case without annotation.
        everyone: the stamp of each case.
    """
    version = store.current()
    cases: set[str] = set()
    calibration = False
    if version is not None:
        cases |= _outdated(scores_of(store.folder, version), unlabeled)
        calibration = not store.folder.notes(version).calibration.exists()
    if generalist != NO_GENERALIST:
        cases |= _outdated(embeddings_of(store.folder, generalist), everyone)
    return Missing(frozenset(cases), calibration)


def _outdated(ledger: Ledger[R], stamps: Mapping[str, str]) -> set[str]:
    """Return the cases without a record, or whose scan has changed since."""
    known = ledger.read()
    return {
        name
        for name, stamp in stamps.items()
        if name not in known or not known[name].holds_for(stamp)
    }


def _waiting(ledger: Ledger[R], cases: Sequence[Case]) -> list[Case]:
    """Return the cases of which nothing is known, or nothing of their scan as it is now."""
    outdated = _outdated(ledger, {case.name: case.stamp for case in cases})
    return [case for case in cases if case.name in outdated]


def score_of(
    case: str,
    published: LoadedStudent,
    result: Segmentation,
    *,
    map_file: str = "",
    stamp: str = "",
) -> Score:
    """Return what a version thinks of a case it segmented."""
    summary = published.summary(result)
    quality = summary.quality
    labels = {
        name: LabelScore(
            uncertainty=one.uncertainty, voxels=one.voxels, dice=quality.per_label[name]
        )
        for name, one in result.by_label.items()
    }
    return Score(
        case=case,
        scan=stamp,
        quality=quality.dice,
        interval=quality.interval,
        band=quality.band,
        labels=labels,
        rois=summary.rois,
        map_file=map_file,
    )


def _score(
    store: ModelStore,
    published: LoadedStudent,
    cases: Sequence[Case],
    reporter: Reporter,
    found: Found,
) -> None:
    notes = store.folder.notes(published.manifest.version)
    scores = scores_of(store.folder, published.manifest.version)
    waiting = _waiting(scores, cases)
    found.skipped = len(cases) - len(waiting)
    for folder in (notes.maps, notes.pre_labels):
        folder.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(waiting, start=1):
        reporter.phase(f"scoring case {number} of {len(waiting)}")
        try:
            result = published.segment(read_scan(case.image, case=case.name))
        except ScanError as error:
            found.left_out[case.name] = str(error)
            continue
        name = f"{case.name}.nii.gz"
        write_volume(notes.pre_labels / name, result.label, result.grid)
        write_volume(notes.maps / name, result.uncertainty, result.grid)
        scores.add(score_of(case.name, published, result, map_file=name, stamp=case.stamp))
        found.scored += 1


def embed(
    store: ModelStore,
    cases: Sequence[Case],
    settings: RoundSettings,
    reporter: Reporter,
    found: Found,
) -> None:
    """Embed the cases that have no embedding yet, in the generalist's space.

    Args:
        store: where embeddings are kept.
        cases: the pool.
        settings: as for training.
        reporter: receives the phases.
        found: counts them, and records which could not be read.
    """
    embeddings = embeddings_of(store.folder, settings.generalist)
    waiting = _waiting(embeddings, cases)
    if not waiting or settings.generalist == NO_GENERALIST:
        return
    space, generalist = _space(store, cases), open_generalist([], RECIPES[settings.mode], settings)
    if space is None or generalist is None:
        return
    prepared = CaseStore(
        settings.folder.prepared_cache,
        space,
        modality=settings.modality,
        labels=settings.labels,
    )
    for number, case in enumerate(waiting, start=1):
        reporter.phase(f"generalist looks at case {number} of {len(waiting)}")
        try:
            vector = generalist.describe(prepared.load(replace(case, label=None)), VIEWS)
        except ScanError as error:
            found.left_out[case.name] = str(error)
            continue
        place = tuple(vector.tolist())
        embeddings.add(Embedding(case=case.name, scan=case.stamp, vector=place))
        found.embedded += 1
        if found.embedded % TRIM_EVERY == 0:
            generalist.cache.trim()
    generalist.cache.trim()


def _space(store: ModelStore, cases: Sequence[Case]) -> Space | None:
    version = store.current()
    if version is not None:
        return store.manifest(version).space
    grids = list(_grids(cases))
    return choose_space(grids) if grids else None


def _grids(cases: Sequence[Case]) -> Iterator[Grid]:
    for case in cases:
        try:
            yield read_grid(case.image, case=case.name)
        except ScanError as error:
            logger.warning("%s", error)
