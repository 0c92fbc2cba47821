"""Which cases are annotated, which are not, and which are held out for judging."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

HELD_OUT_SHARE = 0.2
HELD_OUT_FROM = 10  # number of annotated cases from which some are held out
Side = Literal["train", "held_out"]


@dataclass(frozen=True)
class Case:
    """One scan of the pool, with its annotation if there is one.

    Attributes:
        name: the datastore's image id.
        image: the scan's file.
        label: the submitted label's file, or None.
        segments: the label's values by segment name, as stored with it; empty if the label was
            put there by hand: its values are then the app's own.
        stamp: changes whenever the scan does; empty if nobody keeps track.
        patient: whose scan it is; empty if it is the only one of its patient.
    """

    name: str
    image: Path
    label: Path | None = None
    segments: dict[str, int] = field(default_factory=dict)
    stamp: str = ""
    patient: str = ""


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


def decide(
    annotated: Iterable[str],
    decided: Mapping[str, Side],
    patients: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Side]:
    """Decide for annotated cases whether they train or judge; a decision is never changed.

    With fewer than ten annotated cases, all train. From the tenth on, up to half of the new ones
    judge, in the order of a hash of their names, until a fifth of all do. All scans of a patient
    are on one side.

    Args:
        annotated: names of all annotated cases.
        decided: earlier decisions, including those on cases whose label was removed since.
        patients: whose scan a case is; one that is not listed is a patient's only scan.

    Returns:
        All decisions, earlier ones unchanged.
    """
    names = set(annotated)
    sides, groups = _by_patient(names, decided, patients)
    judging = sum(sides.get(name) == "held_out" for name in names)
    wanted = round(HELD_OUT_SHARE * len(names)) - judging if len(names) >= HELD_OUT_FROM else 0
    left = min(wanted, -(-sum(map(len, groups.values())) // 2))
    for group in groups.values():
        judges = 0 < len(group) <= left
        sides |= dict.fromkeys(group, "held_out" if judges else "train")
        left -= len(group) if judges else 0
    return sides


def _by_patient(
    names: Set[str], decided: Mapping[str, Side], patients: Mapping[str, str]
) -> tuple[dict[str, Side], dict[str, list[str]]]:
    """Return decisions with those that follow from a patient's other scans; the rest by patient."""
    sides: dict[str, Side] = dict(decided)
    of_patient: dict[str, set[Side]] = {}
    for name, side in decided.items():
        of_patient.setdefault(patients.get(name) or name, set()).add(side)
    groups: dict[str, list[str]] = {}
    for name in sorted(names - decided.keys(), key=_hash):
        patient = patients.get(name) or name
        if patient in of_patient:
            # one that has trained, even in part, cannot judge any more
            sides[name] = "held_out" if of_patient[patient] == {"held_out"} else "train"
        else:
            groups.setdefault(patient, []).append(name)
    return sides, groups


def split(cases: Iterable[Case], sides: Mapping[str, Side]) -> Pool:
    """Split cases as decided; an annotated case without a decision trains."""
    ordered = sorted(cases, key=lambda case: case.name)
    annotated = [case for case in ordered if case.label is not None]
    held_out = tuple(case for case in annotated if sides.get(case.name) == "held_out")
    labeled = tuple(case for case in annotated if case not in held_out)
    # a judging case whose label was removed does not train: it may be labeled again, and judge
    unlabeled = tuple(
        case for case in ordered if case.label is None and sides.get(case.name) != "held_out"
    )
    return Pool(labeled, unlabeled, held_out)


def _hash(name: str) -> bytes:
    return hashlib.sha256(f"held out: {name}".encode()).digest()
