"""Read and prepare the cases of a round; what cannot be used is left out or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from uncol.data.annotation import read_annotation
from uncol.data.cases import Case, Pool
from uncol.data.grid import Grid
from uncol.data.prepared import CaseStore, TrainingCase
from uncol.data.scan import read_grid
from uncol.errors import LabelError, ScanError
from uncol.round_settings import RoundSettings
from uncol.storage.files import GIB, file_digest
from uncol.storage.trim import trim
from uncol.training.sizes import Sizes


@dataclass(frozen=True)
class PreparedPool:
    """A pool, ready to train on.

    Attributes:
        pool: its cases.
        sizes: what they were prepared for.
        labeled: annotated cases that train.
        unlabeled: cases without annotation that train.
        left_out: why each left-out unlabeled case was left out.
    """

    pool: Pool
    sizes: Sizes
    labeled: list[TrainingCase]
    unlabeled: list[TrainingCase]
    left_out: dict[str, str]

    def absent(self, labels: Mapping[str, int]) -> list[str]:
        """Return the labels that no annotated case holds that trains."""
        arrays = [case.label for case in self.labeled if case.label is not None]
        held = {int(value) for array in arrays for value in np.unique(array)}
        return [name for name, value in labels.items() if value not in held]

    def digests(self) -> dict[str, tuple[str, str]]:
        """Return by case the digests of its scan and its label file ("" without a label).

        The scan is the prepared one; held-out cases are not prepared, so it is their file.
        """
        keys = {case.name: case.key for case in (*self.labeled, *self.unlabeled)}
        labels = {case.name: case.label_digest for case in self.labeled}
        return {
            case.name: (
                keys.get(case.name) or file_digest(case.image),
                labels.get(case.name) or (file_digest(case.label) if case.label else ""),
            )
            for case in (*self.pool.labeled, *self.pool.held_out, *self.pool.unlabeled)
            if case.name in keys or case.label is not None
        }


def read_grids(pool: Pool) -> tuple[dict[str, Grid], dict[str, str]]:
    """Read the grids of all scans.

    Returns:
        Grids by case in the order of names, and by case why an unlabeled one was left out.

    Raises:
        ScanError: an annotated case's scan cannot be read.
    """
    grids: dict[str, Grid] = {}
    left_out: dict[str, str] = {}
    for case in (*pool.labeled, *pool.held_out):
        grids[case.name] = read_grid(case.image, case=case.name)
    for case in pool.unlabeled:
        try:
            grids[case.name] = read_grid(case.image, case=case.name)
        except ScanError as error:
            left_out[case.name] = str(error)
    return dict(sorted(grids.items())), left_out


def prepare_pool(
    pool: Pool, sizes: Sizes, settings: RoundSettings, left_out: Mapping[str, str]
) -> PreparedPool:
    """Prepare all cases. A bad annotation stops the round: leaving it out would lose work.

    Args:
        pool: the cases.
        sizes: the working space.
        settings: labels, modality and folder.
        left_out: unlabeled cases that cannot be read, with the reason.

    Raises:
        LabelError: annotations cannot be used; the message lists all such cases.
        StorageError: something could not be written.
    """
    folder = settings.folder.prepared_cache
    store = CaseStore(folder, sizes.space, modality=settings.modality, labels=settings.labels)
    labeled, mistakes = [], []
    for case in pool.labeled:
        try:
            labeled.append(store.load(case))
        except (LabelError, ScanError) as error:
            mistakes.append(str(error))
    mistakes += _mistakes(pool.held_out, settings.labels)
    if mistakes:
        raise LabelError("\n".join(mistakes))
    unlabeled, reasons = [], dict(left_out)
    for case in pool.unlabeled:
        if case.name in reasons:
            continue
        try:
            unlabeled.append(store.load(case))
        except ScanError as error:
            reasons[case.name] = str(error)
    trim(folder, settings.cache_gb * GIB)
    return PreparedPool(pool, sizes, labeled, unlabeled, reasons)


def _mistakes(held_out: Iterable[Case], labels: Mapping[str, int]) -> Iterable[str]:
    """Yield what is wrong with held-out annotations, which are not prepared."""
    for case in held_out:
        try:
            read_annotation(case, read_grid(case.image, case=case.name), labels)
        except (LabelError, ScanError) as error:
            yield str(error)
