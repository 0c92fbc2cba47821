"""Which case next: pure functions from what is known of a pool to an order.

To add a strategy: a function here and an entry in `STRATEGIES`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from uncol.selection.scores import Score
from uncol.types import Array

GREEDY = 256  # places of the order that are chosen with regard to those before them
PLAIN_EVERY = 3  # every third place goes to the case that is most unsure over all labels
BETA = (1.0, 100.0)  # inverse noise: from much noise with few labels to almost none
DIVERSITY = 0.5  # exponent of a case's distance to the labeled and already chosen ones
USUAL = 0.5  # a label found in this share of the cases is expected in all
LEAST = 1e-6


@dataclass(frozen=True)
class Candidates:
    """A pool as a strategy sees it.

    Attributes:
        waiting: cases without a label.
        labeled: cases with one.
        scores: the served version's scores; empty before the first version.
        embeddings: the generalist's vectors `(d,)`.
    """

    waiting: Set[str]
    labeled: Set[str] = frozenset()
    scores: Mapping[str, Score] = field(default_factory=dict)
    embeddings: Mapping[str, Sequence[float]] = field(default_factory=dict)


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


Ranking = Callable[[Candidates, int], list[Choice]]


def by_uncol(pool: Candidates, seed: int) -> list[Choice]:
    """Class-stratified, noised and diverse; before the first model, the most representative first.

    After ClaSP PE (arXiv:2601.13677): two of three places go to the cases most unsure about one
    label, the labels taking turns, the rest to those most unsure over all; log scores get Gumbel
    noise that fades as labels come in; a case far from the labeled and chosen ones in the
    generalist's space comes sooner.
    """
    scored = [name for name in sorted(pool.waiting) if name in pool.scores]
    if not scored:
        return _representative(pool, seed)
    strata = _strata(pool, scored)
    beta = _beta(pool)
    noise = {
        key: np.array([_gumbel(f"{key} {name}", seed) for name in scored]) / beta for key in strata
    }
    appeal = {key: np.log(np.maximum(strata[key], LEAST)) + noise[key] for key in strata}
    turns = _turns(list(strata), start=len(pool.labeled))
    order = []
    for place, key, _ in _greedy(scored, appeal, turns, pool):
        name = scored[place]
        score = pool.scores[name]
        order.append((name, float(strata[key][place]), _why(score, key)))
    order += [
        (name, 0.0, "Not scored yet by the current model.")
        for name in _shuffled(pool.waiting - set(scored), seed)
    ]
    return _numbered(order)


def by_uncertainty(pool: Candidates, seed: int) -> list[Choice]:
    """Most uncertain first; cases without a score come last, in seeded random order."""
    order, usual = [], _usual(pool.scores)
    for name in _shuffled(pool.waiting, seed):
        score = pool.scores.get(name)
        if score is None:
            order.append((name, 0.0, "No model has scored this case yet."))
        else:
            order.append((name, _unsure(score, usual), _why(score, "")))
    order.sort(key=lambda entry: -entry[1])  # stable, so equal scores keep the seed's order
    return _numbered(order)


def at_random(pool: Candidates, seed: int) -> list[Choice]:
    """Seeded random order."""
    return _numbered([(name, 0.0, "Drawn at random.") for name in _shuffled(pool.waiting, seed)])


def foreground_at_random(pool: Candidates, seed: int) -> list[Choice]:
    """Random among cases in which the model finds every usual label, the others after them.

    The counterpart, for whole cases, of nnActive's foreground-aware random patches
    (arXiv:2511.19183): random, but where there is something to draw.
    """
    usual = _usual(pool.scores)
    order = []
    for name in _shuffled(pool.waiting, seed):
        score = pool.scores.get(name)
        complete = (
            score is not None
            and any(label.voxels for label in score.labels.values())
            and all(score.labels[label].voxels for label in usual)
        )
        reason = "Drawn at random" + (", the model finds every label in it." if complete else ".")
        order.append((name, float(complete), reason))
    order.sort(key=lambda entry: -entry[1])
    return _numbered(order)


def in_order(pool: Candidates, seed: int) -> list[Choice]:
    """By name."""
    return _numbered([(name, 0.0, "Next by name.") for name in sorted(pool.waiting)])


STRATEGIES: dict[str, tuple[str, Ranking]] = {
    "uncol": ("UnCoL: the case most worth a person's time", by_uncol),
    "uncertainty": ("Highest mean uncertainty around the predicted labels", by_uncertainty),
    "foreground_random": ("Random among cases with foreground", foreground_at_random),
    "random": ("Random", at_random),
    "first": ("By name", in_order),
}


def _representative(pool: Candidates, seed: int) -> list[Choice]:
    """Order cases, before the first model, so that the first ones represent the pool.

    Each is in a dense place of the generalist's space, yet far from the labeled cases and from
    those before it.
    """
    known = [name for name in _shuffled(pool.waiting, seed) if name in pool.embeddings]
    order: list[tuple[str, float, str]] = []
    if known:
        vectors = _unit({name: pool.embeddings[name] for name in known})
        typical = {"": np.log(np.maximum(_density(vectors), LEAST))}
        turns = [""] * len(known)
        for place, _, distance in _greedy(known, typical, turns, pool):
            reason = (
                "Stands for many cases of the pool, by the foundation model's features."
                if not order and not pool.labeled
                else "Stands for cases unlike those before it, by the foundation model's features."
            )
            order.append((known[place], distance, reason))
    rest = _shuffled(pool.waiting - set(known), seed)
    order += [(name, 0.0, "Drawn at random: no model has seen this case yet.") for name in rest]
    return _numbered(order)


def _greedy(
    names: Sequence[str], appeal: Mapping[str, Array], turns: Sequence[str], pool: Candidates
) -> list[tuple[int, str, float]]:
    """Return index in `names`, stratum and distance of each candidate, in the order of choice.

    Args:
        names: the candidates.
        appeal: by stratum, log score of each candidate `(n,)`.
        turns: the stratum whose turn it is at each place of the order.
        pool: for the embeddings of candidates and labeled cases.
    """
    vectors = _vectors(names, pool)
    own = None if vectors is None else vectors[: len(names)]
    distance = np.ones(len(names))
    if vectors is not None and own is not None and len(vectors) > len(names):
        distance = 1 - (own @ vectors[len(names) :].T).max(axis=1)
    left = np.ones(len(names), dtype=bool)
    chosen = []
    for key in turns[: min(GREEDY, len(names))]:
        worth = appeal[key] + DIVERSITY * np.log(np.maximum(distance, LEAST))
        place = int(np.argmax(np.where(left, worth, -np.inf)))
        chosen.append((place, key, float(distance[place])))
        left[place] = False
        if own is not None:
            distance = np.minimum(distance, 1 - own @ own[place])
    rest = np.flatnonzero(left)
    last = turns[0] if len(turns) else ""
    by_worth = rest[np.argsort(-appeal[last][rest], kind="stable")]
    return chosen + [(int(place), last, float(distance[place])) for place in by_worth]


def _vectors(names: Sequence[str], pool: Candidates) -> Array | None:
    """Return unit vectors of all candidates, then of labeled cases; None if one lacks its own."""
    if not names or not all(name in pool.embeddings for name in names):
        return None
    everyone = [*names, *sorted(pool.labeled)]
    return _unit({n: pool.embeddings[n] for n in everyone if n in pool.embeddings})


def _strata(pool: Candidates, names: Sequence[str]) -> dict[str, Array]:
    """Return each case's uncertainty over all labels (key "") and about each label."""
    usual = _usual(pool.scores)
    labels = list(pool.scores[names[0]].labels)
    strata = {"": np.array([_unsure(pool.scores[name], usual) for name in names])}
    for label in labels:
        missed = 1.0 if label in usual else 0.0
        scores = [pool.scores[name].labels[label] for name in names]
        strata[label] = np.array([one.uncertainty if one.voxels else missed for one in scores])
    return strata


def _unsure(score: Score, usual: Sequence[str]) -> float:
    """Return a case's uncertainty; 1 if no label was found in it although some are usual."""
    nothing = not any(label.voxels for label in score.labels.values())
    return 1.0 if nothing and usual else score.uncertainty


def _usual(scores: Mapping[str, Score]) -> list[str]:
    counts: dict[str, int] = {}
    for score in scores.values():
        for label, one in score.labels.items():
            counts[label] = counts.get(label, 0) + bool(one.voxels)
    return [label for label, count in counts.items() if count >= USUAL * len(scores)]


def _turns(keys: Sequence[str], *, start: int) -> list[str]:
    """Return the stratum at each place; turns advance with each new label, not each ranking."""
    labels = [key for key in keys if key]
    turns = []
    for place in range(start, start + GREEDY):
        plain = place % PLAIN_EVERY == 0 or not labels
        turns.append("" if plain else labels[(place - place // PLAIN_EVERY - 1) % len(labels)])
    return turns


def _beta(pool: Candidates) -> float:
    """Return the inverse noise: from 1 to 100, geometrically, until half the pool is labeled."""
    total = len(pool.labeled) + len(pool.waiting)
    done = min(1.0, 2 * len(pool.labeled) / max(total, 1))
    return float(BETA[0] * (BETA[1] / BETA[0]) ** done)


def _why(score: Score, label: str) -> str:
    about = f" about {label}" if label else ""
    unsure = score.labels[label].uncertainty if label else score.uncertainty
    low, high = score.interval
    missing = bool(label) and not score.labels[label].voxels
    first = f"The model finds no {label}" if missing else f"Unsure{about} ({unsure:.2f})"
    return f"{first}; estimated Dice {score.quality:.2f} ({low:.2f} to {high:.2f}): {score.band}."


def _unit(vectors: Mapping[str, Sequence[float]]) -> Array:
    """Return centred unit vectors `(n, d)`; features of one foundation model share a large mean."""
    raw = np.array(list(vectors.values()), dtype=np.float32)
    centred = raw - raw.mean(axis=0)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), LEAST))


def _density(vectors: Array) -> Array:
    """Return how near each vector lies to the others, `(n,)` in [0, 1]."""
    some = vectors[:: max(1, len(vectors) // 1000)]
    near: Array = np.sort(vectors @ some.T, axis=1)[:, -max(1, len(some) // 10) :].mean(axis=1)
    return (1 + near) / 2


def _numbered(order: Sequence[tuple[str, float, str]]) -> list[Choice]:
    return [
        Choice(name, score, rank, reason)
        for rank, (name, score, reason) in enumerate(order, start=1)
    ]


def _shuffled(names: Set[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: _hash(name, seed))


def _hash(text: str, seed: int) -> bytes:
    """Return a hash that orders names at random, the same way for the same seed."""
    return hashlib.sha256(f"{seed} {text}".encode()).digest()


def _gumbel(text: str, seed: int) -> float:
    unit = (int.from_bytes(_hash(text, seed)[:8]) + 0.5) / 2**64
    return -math.log(-math.log(unit))
