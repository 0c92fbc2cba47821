"""The stored order of a pool: ranked when something changes, read on request."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Set
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from uncol.selection.scores import Embedding, Score, embeddings_of, scores_of
from uncol.selection.strategies import STRATEGIES, Candidates, Choice
from uncol.storage.files import write_json
from uncol.storage.ledger import Ledger, Record
from uncol.versions.store import ModelStore

logger = logging.getLogger(__name__)

AT_ONCE = 500  # pools up to this size are ranked while the client waits, some 20 ms
ORDERS_KEPT = 15  # besides the last one asked for; a client may send a new seed each time
Key = tuple[str, int]


class Order(BaseModel):
    """A pool in the order of one strategy and seed.

    Attributes:
        strategy: its name.
        seed: its seed.
        state: digest of all that it was ranked by.
        choices: the cases, first to last.
    """

    model_config = ConfigDict(frozen=True)

    strategy: str
    seed: int
    state: str
    choices: tuple[Choice, ...]


class Queue:
    """Orders of a pool, kept in memory and in a file."""

    def __init__(self, store: ModelStore, generalist: str) -> None:
        """Take up the stored orders, if there are any.

        Args:
            store: whose current version's scores count.
            generalist: whose embeddings count.
        """
        self._store = store
        self._path = store.folder.queue
        self._embeddings: Ledger[Embedding] = embeddings_of(store.folder, generalist)
        self._guard = threading.Lock()
        self._stamp_of: Callable[[str], str] = lambda _: ""
        self._orders: dict[Key, Order] = _stored(self._path)
        self._kept = self._orders  # orders are replaced, never changed, so `is` shows any news

    def order(
        self, strategy: str, seed: int, *, waiting: Set[str], labeled: Set[str]
    ) -> list[Choice]:
        """Return the waiting cases, the one most worth a person's time first.

        In a large pool, an outdated order is returned at once; `refresh` brings it up to date.
        """
        held = self._orders.get((strategy, seed))
        if held is None or len(waiting) <= AT_ONCE:
            held = self._ranked((strategy, seed), waiting, labeled)
        order = [choice for choice in held.choices if choice.case in waiting]
        if len(order) < len(waiting):  # scans put into the folder a moment ago
            new = waiting - {choice.case for choice in order}
            late = STRATEGIES["random"][1](Candidates(new), seed)
            order += [Choice(c.case, 0.0, len(order) + c.rank, "New in the pool.") for c in late]
        return order

    def refresh(
        self,
        *,
        waiting: Set[str],
        labeled: Set[str],
        stamp_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        """Rank again the orders asked for before, where anything has changed, and store them.

        Args:
            waiting: cases without a label.
            labeled: cases with one.
            stamp_of: tells a scan's stamp; what was found out about an earlier scan does not count.

        Raises:
            StorageError: they could not be stored.
        """
        self._stamp_of = stamp_of
        for key in list(self._orders) or [(next(iter(STRATEGIES)), 0)]:
            self._ranked(key, waiting, labeled)
        orders = self._orders
        if orders is not self._kept:
            write_json(self._path, [order.model_dump(mode="json") for order in orders.values()])
            self._kept = orders

    def score(self, case: str) -> Score | None:
        """Return what the current version thinks of a case; None before it was scored."""
        scores = self._current_scores()
        score = None if scores is None else scores.read().get(case)
        return score if score and self._holds(score) else None

    def _ranked(self, key: Key, waiting: Set[str], labeled: Set[str]) -> Order:
        with self._guard:
            scores = self._current_scores()
            stamps = [self._embeddings.stamp, None if scores is None else scores.stamp]
            state = _digest(self._store.current(), stamps, sorted(waiting), sorted(labeled))
            held = self._orders.get(key)
            if held is not None and held.state == state:
                return held
            pool = Candidates(
                waiting,
                labeled,
                self._known_scores(),
                {n: one.vector for n, one in self._embeddings.read().items() if self._holds(one)},
            )
            choices = STRATEGIES[key[0]][1](pool, key[1])
            order = Order(strategy=key[0], seed=key[1], state=state, choices=tuple(choices))
            others = [one for one in self._orders.items() if one[0] != key]
            self._orders = {**dict(others[-ORDERS_KEPT:]), key: order}
            return order

    def _known_scores(self) -> dict[str, Score]:
        """Return the current version's scores, and the previous one's for cases not scored yet."""
        version = self._store.current()
        if version is None:
            return {}
        before = [number for number in self._store.versions() if number < version]
        numbers = [*before[-1:], version]
        return {
            n: s
            for number in numbers
            for n, s in scores_of(self._store.folder, number).read().items()
            if self._holds(s)
        }

    def _holds(self, record: Record) -> bool:
        stamp = self._stamp_of(record.case)
        return not stamp or record.holds_for(stamp)

    def _current_scores(self) -> Ledger[Score] | None:
        version = self._store.current()
        return None if version is None else scores_of(self._store.folder, version)


def _stored(path: Path) -> dict[Key, Order]:
    try:
        orders = [Order.model_validate(entry) for entry in json.loads(path.read_text())]
    except FileNotFoundError:
        return {}
    except (ValidationError, ValueError):
        logger.warning("%s is damaged; the pool is ranked again", path)
        return {}
    return {(o.strategy, o.seed): o for o in orders if o.strategy in STRATEGIES}


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
