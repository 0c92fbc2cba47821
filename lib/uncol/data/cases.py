"""Which cases are annotated, which are not, and which are held out for judging."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

HELD_OUT_SHARE = 0.2
HELD_OUT_FROM = 10  # annotated cases from which on some are held out


@dataclass(frozen=True)
class Case:
    """One scan of the pool, with its annotation if there is one.

    Attributes:
        name: the datastore's image id.
        image: the scan's file.
        label: the submitted label's file, or None.
        segments: the label's values by segment name, as stored with it; empty if the label was
            put there by hand, then its values are the app's own.
    """

    name: str
    image: Path
    label: Path | None = None
    segments: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Pool:
    """The cases of one training run.

    Attributes:
        labeled: annotated cases that train.
        unlabeled: cases without annotation; they train too.
        held_out: annotated cases that never train and judge every version.
    """

    labeled: tuple[Case, ...]
    unlabeled: tuple[Case, ...]
    held_out: tuple[Case, ...]


def split(cases: Iterable[Case]) -> Pool:
    """Split cases by a hash of their names, so that a case never changes sides.

    With fewer than ten annotated cases every one is needed for training and none is held out; a
    case that the hash would hold out then trains, and leaves training for good at the tenth.
    """
    ordered = sorted(cases, key=lambda case: case.name)
    annotated = [case for case in ordered if case.label is not None]
    enough = len(annotated) >= HELD_OUT_FROM
    held_out = tuple(case for case in annotated if enough and is_held_out(case.name))
    labeled = tuple(case for case in annotated if case not in held_out)
    unlabeled = tuple(case for case in ordered if case.label is None)
    return Pool(labeled, unlabeled, held_out)


def is_held_out(name: str) -> bool:
    """Say whether a case belongs to the held-out fifth."""
    digest = hashlib.sha256(f"held out: {name}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < HELD_OUT_SHARE
