"""Which case next: pure functions from scores and history to an order.

To add a strategy: a function here and an entry in `STRATEGIES`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uncol.selection.scores import Score


@dataclass(frozen=True)
class Choice:
    """A chosen case and why.

    Attributes:
        case: its name.
        score: what it was ranked by; higher is more worth a person's time.
        rank: its place in the order, from 1.
        reason: a sentence for the annotator.
    """

    case: str
    score: float
    rank: int
    reason: str

    def as_reply(self) -> dict[str, Any]:
        """Return what goes into the answer of *Next Sample*."""
        return {"id": self.case, "score": self.score, "rank": self.rank, "reason": self.reason}


Ranking = Callable[[Sequence[str], Mapping[str, Score], int], list[Choice]]


def by_uncertainty(cases: Sequence[str], scores: Mapping[str, Score], seed: int) -> list[Choice]:
    """Most uncertain first; cases without a score come last, in seeded random order."""
    order = sorted(
        cases,
        key=lambda name: (-scores[name].uncertainty if name in scores else 1.0, _noise(name, seed)),
    )
    return [
        Choice(
            name,
            scores[name].uncertainty if name in scores else 0.0,
            rank,
            scores[name].reason if name in scores else "No model has scored this case yet.",
        )
        for rank, name in enumerate(order, start=1)
    ]


def at_random(cases: Sequence[str], scores: Mapping[str, Score], seed: int) -> list[Choice]:
    """Seeded random order."""
    order = sorted(cases, key=lambda name: _noise(name, seed))
    return [Choice(name, 0.0, rank, "Drawn at random.") for rank, name in enumerate(order, start=1)]


def in_order(cases: Sequence[str], scores: Mapping[str, Score], seed: int) -> list[Choice]:
    """By name."""
    return [
        Choice(name, 0.0, rank, "Next by name.") for rank, name in enumerate(sorted(cases), start=1)
    ]


STRATEGIES: dict[str, tuple[str, Ranking]] = {
    "uncol": ("UnCoL: the case most worth a person's time", by_uncertainty),
    "uncertainty": ("Highest mean uncertainty in the predicted foreground", by_uncertainty),
    "foreground_random": ("Random (every case of a pool holds foreground)", at_random),
    "random": ("Random", at_random),
    "first": ("By name", in_order),
}


def _noise(name: str, seed: int) -> bytes:
    """Return a hash that orders names at random, the same way for the same seed."""
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
