"""Rounds that nobody asked for: while nobody works, the served student goes on learning.

Each goes on from the served version. The first has as many steps as a round from random weights,
each further one twice as many as the one before. They end when the gate refuses one, or after as
many steps on the same labels as the paper's. Without held-out cases nothing could tell a gain from
a loss, so there are none. Labels that no training has taken up yet wait for one that somebody asks
for: it decides which of them judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from uncol.data.cases import HELD_OUT_FROM, Case, Pool, split
from uncol.errors import WeightsError
from uncol.round_settings import RoundSettings
from uncol.storage.model_folder import checkpoint_in
from uncol.training.plan import CONTINUED, make_plan
from uncol.training.pool import read_grids
from uncol.training.start import Origin, children, choose_start, labels_of, served_origin
from uncol.versions.manifest import Manifest
from uncol.versions.split import FrozenSplit
from uncol.versions.store import ModelStore

MOST_STEPS = 30_000  # the paper's 15,000 per stage


@dataclass(frozen=True)
class IdleRound:
    """A round to train.

    Attributes:
        pool: its cases.
        origin: the served version.
        settings: the settings of the round.
    """

    pool: Pool
    origin: Origin
    settings: RoundSettings


def next_idle_round(
    store: ModelStore, cases: Sequence[Case], settings: RoundSettings
) -> IdleRound | str:
    """Return the next round that nobody asked for, or why there is none.

    Raises:
        ScanError: an annotated case's scan cannot be read.
        StorageError: the split cannot be read.
        TrainingError: the preset does not suit the scans.
    """
    if store.current() is None:
        return "no version is served yet"
    if store.folder.training_request.exists() or checkpoint_in(store.folder.runs).exists():
        return "a training that was stopped or killed can still be resumed by Train"
    pool = _decided(store, cases)
    if not pool.held_out:
        return f"below {HELD_OUT_FROM} labeled cases none is held out, so no gain could be seen"
    labels = labels_of(pool)
    origin = _origin(store, pool, labels, settings)
    if isinstance(origin, str):
        return origin
    number = origin.parent.version
    scale = _scale(pool, list(_idle_ancestry(store, origin.manifest, labels)), settings)
    if scale is None:
        return f"version {number} has learned for {MOST_STEPS:,} steps on these labels"
    longer = replace(settings, step_scale=scale / CONTINUED, seed=number, idle=True)
    return IdleRound(pool, origin, longer)


def _origin(
    store: ModelStore, pool: Pool, labels: Mapping[str, str], settings: RoundSettings
) -> Origin | str:
    """Return the served version, or why it cannot go on learning."""
    origin = served_origin(store, pool, settings)
    if isinstance(origin, str):
        return origin
    grids, _ = read_grids(pool)
    start = choose_start(origin, pool, list(grids.values()), settings)
    if start.origin is None:
        return f"{start.text} That is for Train to do."
    number = origin.parent.version
    for tried, child in children(store, number, labels):
        if child.idle:  # the gate refused it, or a person went back behind it
            return f"version {tried} went on from version {number} on these labels already"
    return origin


def _decided(store: ModelStore, cases: Sequence[Case]) -> Pool:
    """Return the pool without annotated cases of which no training has decided yet."""
    sides = FrozenSplit(store.folder.split).sides()
    return split((case for case in cases if case.label is None or case.name in sides), sides)


def _scale(pool: Pool, before: Sequence[Manifest], settings: RoundSettings) -> float | None:
    """Return the length of the next round, 1 for one from random weights; None if none is left."""
    gpu = settings.device.type == "cuda"
    whole = make_plan(len(pool.labeled), len(pool.unlabeled), gpu=gpu).steps
    left = (MOST_STEPS - sum(made.plan.steps for made in before)) / whole
    return min(2.0 ** len(before), left) if left >= 1 else None


def _idle_ancestry(
    store: ModelStore, made: Manifest, labels: Mapping[str, str]
) -> Iterator[Manifest]:
    """Yield a version and those that it went on from, while they are idle ones on these labels."""
    while made.idle and made.label_digests == labels:
        yield made
        if made.parent is None:
            return
        try:
            made = store.manifest(made.parent.version)
        except WeightsError:  # a clean-up deleted it
            return
