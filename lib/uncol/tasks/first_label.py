"""What `uncol` answers before the first training: annotations carried over by registration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
from monailabel.interfaces.datastore import Datastore

from uncol.data.annotation import read_annotation
from uncol.data.cases import Case
from uncol.data.grid import Grid, Volume
from uncol.data.labels import IGNORE_VALUE
from uncol.data.scan import read_grid, read_scan
from uncol.datastores.pool import case_of, pool_of
from uncol.errors import UncolError, why
from uncol.inference.atlas import Atlas, carry
from uncol.types import Array

logger = logging.getLogger(__name__)

MOST_CARRIED = 3  # annotated cases that are carried over; each takes seconds
CONSIDERED = 12  # of which those are taken whose scans are most alike in size


@dataclass(frozen=True)
class Carried:
    """A label that was carried over.

    Attributes:
        label: `(I, J, K)` in the scan's grid, in the app's values.
        sources: names of the annotated cases.
    """

    label: Array
    sources: tuple[str, ...]


class FirstLabel:
    """Labels scans of a pool from its first annotations."""

    def __init__(self, datastore: Callable[[], Datastore], labels: Mapping[str, int]) -> None:
        """Make it.

        Args:
            datastore: gives the pool.
            labels: the app's labels.
        """
        self._datastore = datastore
        self._labels = labels

    def of(self, scan: Volume, case: str | None) -> Carried | None:
        """Return a scan's label; None if no annotation can be carried over to it.

        To single images none is: another one may show another part of the body.

        Args:
            scan: what is to be labeled.
            case: its name, whose own annotation is left out.
        """
        return carried_over(scan, case, self._annotated(case), self._labels)

    def _annotated(self, case: str | None) -> Iterator[Case]:
        """Yield annotated cases that are considered for another one."""
        store = self._datastore()
        for name in sorted(pool_of(store)[1] - {case})[:CONSIDERED]:
            with _left_out():
                yield case_of(store, name)


def carried_over(
    scan: Volume, case: str | None, annotated: Iterable[Case], labels: Mapping[str, int]
) -> Carried | None:
    """Return a scan's label; None if none of the annotations can be carried over to it.

    Args:
        scan: what is to be labeled; not a single image, see `FirstLabel.of`.
        case: its name, for messages.
        annotated: other cases with an annotation.
        labels: the app's labels.
    """
    if _is_flat(scan.grid):
        return None
    atlases = dict(islice(_atlases(scan.grid, annotated, labels), MOST_CARRIED))
    if not atlases:
        return None
    try:
        return Carried(carry(list(atlases.values()), scan), tuple(atlases))
    except RuntimeError as error:  # ITK's; the scans have too little in common
        logger.warning("No label is carried over to '%s': %s", case, why(error))
        return None


def _atlases(
    grid: Grid, annotated: Iterable[Case], labels: Mapping[str, int]
) -> Iterator[tuple[str, Atlas]]:
    """Yield what is wholly annotated and can be read, what is most alike in size first."""
    headers: list[tuple[float, Case]] = []
    for one in annotated:
        with _left_out():
            own = read_grid(one.image, case=one.name)
            if not _is_flat(own):
                headers.append((_unlike(own, grid), one))
    for _, one in sorted(headers, key=lambda pair: pair[0]):
        atlas = None
        with _left_out():
            scan = read_scan(one.image, case=one.name)
            atlas = Atlas(scan, read_annotation(one, scan.grid, labels))
        if atlas is not None and not (atlas.label == IGNORE_VALUE).any():
            yield one.name, atlas


@contextmanager
def _left_out() -> Iterator[None]:
    """Leave out what cannot be read, and say so."""
    try:
        yield
    except UncolError as error:
        logger.warning("Not carried over: %s", error)


def _is_flat(grid: Grid) -> bool:
    return min(grid.shape) == 1


def _unlike(one: Grid, other: Grid) -> float:
    """Return how much the extents of two scans differ."""
    sizes_mm = [np.array(grid.shape) * np.array(grid.step_mm) for grid in (one, other)]
    return float(np.abs(np.diff(np.log(sizes_mm), axis=0)).sum())
