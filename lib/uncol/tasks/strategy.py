"""MONAI Label's strategies: read the stored order, skip what somebody else is working on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from uncol.datastores.pool import pool_of
from uncol.datastores.studies import UncolDatastore
from uncol.selection.queue import Queue
from uncol.selection.strategies import STRATEGIES, Choice
from uncol.tasks.requests import SampleRequest

LEASE_S = 30 * 60  # how long a case given to one client is kept from others
ANYBODY = ""  # OHIF sends no client id, so two of its users cannot be told apart


class Leases:
    """Which client is working on which case; lives in the server's memory."""

    def __init__(self) -> None:
        """Start with none."""
        self._given: dict[str, tuple[str, float]] = {}
        self._guard = threading.Lock()

    def take(
        self, order: Sequence[Choice], client: str, patient_of: Callable[[str], str] = str
    ) -> Choice | None:
        """Give a client the first case that nobody holds; None if others hold all.

        A client that asks again without submitting has skipped its case: it gets the next one,
        and its own skipped ones only when nothing else is left, the longest skipped first. Scans of
        a patient of whom somebody has another one wait, while there are others.

        Args:
            order: the waiting cases, the one most worth a person's time first.
            client: who asks.
            patient_of: tells whose scan a case is.
        """
        now = time.monotonic()
        with self._guard:
            live = {n: g for n, g in self._given.items() if now - g[1] < LEASE_S}
            free = _free(order, live, patient_of)
            own = [choice for choice in order if live.get(choice.case, (None, 0))[0] == client]
            chosen = free or min(own, key=lambda choice: live[choice.case][1], default=None)
            if chosen is not None:
                live[chosen.case] = (client, now)
            self._given = live
        return chosen


def _free(
    order: Sequence[Choice], live: Iterable[str], patient_of: Callable[[str], str]
) -> Choice | None:
    """Return the first case that nobody holds, of a patient of whom nobody has a scan if any."""
    held = set(live)
    busy = {patient_of(name) for name in held}
    free = [choice for choice in order if choice.case not in held]
    return next((one for one in free if patient_of(one.case) not in busy), next(iter(free), None))


class UncolStrategy(Strategy):  # type: ignore[misc]
    """One of `STRATEGIES` behind MONAI Label's interface."""

    def __init__(self, name: str, queue: Queue, leases: Leases) -> None:
        """Make it."""
        super().__init__(STRATEGIES[name][0])
        self._name = name
        self._queue = queue
        self._leases = leases

    def __call__(self, asked: SampleRequest, datastore: Datastore) -> dict[str, Any]:
        """Return the next case: id, score, rank, reason, rois; {} when all are done."""
        waiting, labeled = pool_of(datastore)
        order = self._queue.order(self._name, asked.seed, waiting=waiting, labeled=labeled)
        patient_of = datastore.patient_of if isinstance(datastore, UncolDatastore) else str
        chosen = self._leases.take(order, asked.client_id or ANYBODY, patient_of)
        if chosen is None:
            return {}
        score = self._queue.score(chosen.case)
        return {
            "id": chosen.case,
            "score": chosen.score,
            "rank": chosen.rank,
            "reason": chosen.reason,
            "rois": []
            if score is None
            else [place.model_dump(mode="json") for place in score.rois],
        }


class ViewerRandom(Strategy):  # type: ignore[misc]
    """Key `random`: OHIF asks for it whatever the user chose, and sends no `client_id`.

    Slicer always sends one, and then gets a true random case.
    """

    def __init__(self, random: UncolStrategy, uncol: UncolStrategy) -> None:
        """Make it of the two it chooses from."""
        super().__init__(random.description)
        self._random, self._uncol = random, uncol

    def __call__(self, asked: SampleRequest, datastore: Datastore) -> dict[str, Any]:
        """Return the next case."""
        chosen = self._random if asked.client_id else self._uncol
        return chosen(asked, datastore)


def strategies(queue: Queue) -> dict[str, Strategy]:
    """Return all strategies; `uncol` first, which Slicer then offers first."""
    leases = Leases()
    made: dict[str, Strategy] = {name: UncolStrategy(name, queue, leases) for name in STRATEGIES}
    made["random"] = ViewerRandom(made["random"], made["uncol"])
    return made
