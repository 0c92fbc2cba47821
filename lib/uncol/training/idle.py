"""Rounds that nobody asked for: while nobody works, the served student goes on learning.

Each goes on from the served version. The first has as many steps as a round from random weights,
each further one twice as many as the one before. They end when the gate refuses one, or when a
student and all that it went on from have learned for as many steps as the paper's. Without
held-out cases nothing could tell a gain from a loss, so there are none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from uncol.data.cases import HELD_OUT_FROM, Pool
from uncol.errors import WeightsError
from uncol.round_settings import RoundSettings
from uncol.storage.files import file_digest
from uncol.training.plan import CONTINUED
from uncol.training.pool import read_grids
from uncol.training.start import Origin, choose_start, served_origin
from uncol.versions.manifest import Manifest
from uncol.versions.store import ModelStore

MOST_STEPS = 30_000  # the paper's 15,000 per stage


@dataclass(frozen=True)
class IdleRound:
    """A round to train.

    Attributes:
        origin: the served version.
        settings: the settings of the round.
    """

    origin: Origin
    settings: RoundSettings


def next_idle_round(store: ModelStore, pool: Pool, settings: RoundSettings) -> IdleRound | str:
    """Return the next round that nobody asked for, or why there is none.

    Raises:
        ScanError: an annotated case's scan cannot be read.
        TrainingError: the preset does not suit the scans.
    """
    if not pool.held_out:
        return f"below {HELD_OUT_FROM} labeled cases none is held out, so no gain could be seen"
    origin = served_origin(store, settings)
    if isinstance(origin, str):
        return origin
    grids, _ = read_grids(pool)
    start = choose_start(origin, pool, list(grids.values()), settings)
    if start.origin is None:
        return f"{start.text} That is for Train to do."
    number = origin.parent.version
    tried = _tried(store, number, pool)
    if tried is not None:
        return f"version {tried} went on from version {number} on these labels already"
    ancestry = list(_ancestry(store, origin.manifest))
    if sum(made.plan.steps for made in ancestry) >= MOST_STEPS:
        return f"version {number} has learned for {MOST_STEPS:,} steps"
    idle = next((n for n, made in enumerate(ancestry) if not made.idle), len(ancestry))
    longer = replace(settings, step_scale=2**idle / CONTINUED, seed=number, idle=True)
    return IdleRound(origin, longer)


def _ancestry(store: ModelStore, made: Manifest) -> Iterator[Manifest]:
    """Yield a manifest and those of the versions that it went on from, while they are there."""
    yield made
    while made.parent is not None:
        try:
            made = store.manifest(made.parent.version)
        except WeightsError:  # a clean-up deleted it
            return
        yield made


def _tried(store: ModelStore, served: int, pool: Pool) -> int | None:
    """Return the idle version that went on from the served one on these labels.

    The gate refused it, or a person went back behind it.
    """
    labels = {
        case.name: file_digest(case.label)
        for case in (*pool.labeled, *pool.held_out)
        if case.label is not None
    }
    for number in reversed(store.versions()):
        with contextlib.suppress(WeightsError):  # a damaged one says nothing
            made = store.manifest(number)
            if _idle_child(made, served) and _labels_of(made) == labels:
                return number
    return None


def _idle_child(made: Manifest, served: int) -> bool:
    return made.idle and made.parent is not None and made.parent.version == served


def _labels_of(made: Manifest) -> dict[str, str]:
    """Return the digests of the labels that it was made with."""
    return {name: label for name, (_, label) in made.digests.items() if label}
