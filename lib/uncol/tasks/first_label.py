"""What `uncol` answers before the first training: annotations carried over by registration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from monailabel.interfaces.datastore import Datastore

from uncol.data.annotation import read_annotation
from uncol.data.grid import Grid, Volume
from uncol.data.labels import IGNORE_VALUE
from uncol.data.scan import read_scan
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
        if _is_flat(scan):
            return None
        atlases = {name: one for name, one in self._annotated(case) if not _is_flat(one.scan)}
        names = sorted(atlases, key=lambda name: _unlike(atlases[name].scan.grid, scan.grid))
        chosen = tuple(names[:MOST_CARRIED])
        if not chosen:
            return None
        try:
            return Carried(carry([atlases[name] for name in chosen], scan), chosen)
        except RuntimeError as error:  # ITK's; the scans have too little in common
            logger.warning("No label is carried over to '%s': %s", case, why(error))
            return None

    def _annotated(self, case: str | None) -> Iterator[tuple[str, Atlas]]:
        """Yield what is wholly annotated and can be read."""
        store = self._datastore()
        for name in sorted(pool_of(store)[1] - {case})[:CONSIDERED]:
            try:
                annotated = case_of(store, name)
                scan = read_scan(annotated.image, case=name)
                label = read_annotation(annotated, scan.grid, self._labels)
            except UncolError as error:
                logger.warning("Not carried over: %s", error)
                continue
            if not (label == IGNORE_VALUE).any():
                yield name, Atlas(scan, label)


def _is_flat(scan: Volume) -> bool:
    return min(scan.grid.shape) == 1


def _unlike(one: Grid, other: Grid) -> float:
    """Return how much the extents of two scans differ."""
    sizes_mm = [np.array(grid.shape) * np.array(grid.step_mm) for grid in (one, other)]
    return float(np.abs(np.diff(np.log(sizes_mm), axis=0)).sum())
