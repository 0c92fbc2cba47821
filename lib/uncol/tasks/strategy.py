"""MONAI Label's strategies: fill in pool and history, ask the ranking."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from uncol.selection.scores import ScoreFile
from uncol.selection.strategies import STRATEGIES, Ranking
from uncol.training.versions import ModelStore

LEASE_S = 30 * 60  # how long a served case is kept from other clients


class Leases:
    """Which client is working on which case; lives in the server's memory."""

    def __init__(self) -> None:
        """Start with none."""
        self._until: dict[str, tuple[str, float]] = {}
        self.guard = threading.Lock()

    def held_by_others(self, client: str) -> set[str]:
        """Return the cases that other clients hold now."""
        now = time.monotonic()
        return {n for n, (who, until) in self._until.items() if who != client and until > now}

    def give(self, case: str, client: str) -> None:
        """Give a client a case."""
        self._until[case] = (client, time.monotonic() + LEASE_S)


class UncolStrategy(Strategy):  # type: ignore[misc]
    """A ranking behind MONAI Label's interface."""

    def __init__(self, name: str, store: ModelStore, leases: Leases) -> None:
        """Make one of `STRATEGIES`."""
        description, ranking = STRATEGIES[name]
        super().__init__(description)
        self._ranking: Ranking = ranking
        self._store = store
        self._leases = leases
        self._anonymous = itertools.count()

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Return the next case for a client, with score, rank and reason; {} when all are done."""
        client = str(request.get("client_id") or f"anonymous {next(self._anonymous)}")
        seed = int(request.get("seed", 0))
        version = self._store.current()
        scores = ScoreFile(self._store.folder, version).read() if version else {}
        with self._leases.guard:
            taken = self._leases.held_by_others(client)
            waiting = [name for name in datastore.get_unlabeled_images() if name not in taken]
            order = self._ranking(waiting, scores, seed)
            if not order:
                return {}
            self._leases.give(order[0].case, client)
        return order[0].as_reply()


class ViewerRandom(Strategy):  # type: ignore[misc]
    """Key `random`: OHIF asks for it whatever the user chose, and sends no `client_id`.

    Slicer always sends one, and then gets a true random case.
    """

    def __init__(self, random: UncolStrategy, uncol: UncolStrategy) -> None:
        """Make it of the two it chooses from."""
        super().__init__(random.description)
        self._random, self._uncol = random, uncol

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Return the next case."""
        chosen = self._random if request.get("client_id") else self._uncol
        return chosen(request, datastore)


def strategies(store: ModelStore) -> dict[str, Strategy]:
    """Return all strategies; `uncol` first, which Slicer then offers first."""
    leases = Leases()
    made: dict[str, Strategy] = {name: UncolStrategy(name, store, leases) for name in STRATEGIES}
    made["random"] = ViewerRandom(made["random"], made["uncol"])
    return made
