"""What a round starts from: the served version's weights, or random ones, and why.

A round goes on from the served version where labels were only added since. It then needs a quarter
of the steps, because most of what it has to learn is known. Where labels were changed or removed,
what was learned from them would stay, so it begins with random weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from uncol.data.cases import Case, Pool
from uncol.data.grid import Grid
from uncol.data.prepared import CaseStore, TrainingCase
from uncol.errors import RequestError, WeightsError
from uncol.method.recipe import INTENDED, RECIPES
from uncol.networks.student import Student
from uncol.round_settings import RoundSettings
from uncol.storage.files import file_digest
from uncol.training.sizes import Sizes, choose_sizes, fit_sizes
from uncol.versions.manifest import Manifest, Parent
from uncol.versions.store import ModelStore

SIMILAR = 1.25  # voxel sizes that differ by less are the same to a student


@dataclass(frozen=True)
class Origin:
    """A version that a round may go on from.

    Attributes:
        student: its weights, on the CPU.
        manifest: how it was made.
        parent: how the manifest of the round names it.
    """

    student: Student
    manifest: Manifest
    parent: Parent

    def newly_labeled(self, labeled: Sequence[TrainingCase]) -> list[TrainingCase]:
        """Return the annotated cases that it did not learn from."""
        return [case for case in labeled if case.name not in self.manifest.cases["labeled"]]


@dataclass(frozen=True)
class Start:
    """What a round starts from.

    Attributes:
        origin: the version that it goes on from, or None for random weights.
        sizes: of voxels, student and crops; those of the origin, if it has one.
        text: the same in a sentence, with the reason for random weights.
    """

    origin: Origin | None
    sizes: Sizes
    text: str


def served_origin(store: ModelStore, pool: Pool, settings: RoundSettings) -> Origin | str:
    """Return the served version, or why no round goes on from it."""
    version = store.current()
    if version is None:
        return "no version is served yet"
    if not settings.pretrained:
        return "the option pretrained is off"
    for number, child in children(store, version, labels_of(pool)):
        # an idle one shows that more steps bring nothing, and no more
        if not child.idle and child.gate is not None and not child.gate.published:
            return f"version {number}, which went on from version {version}, was worse than it"
    try:
        return _read(store, version)
    except WeightsError as error:
        return str(error)


def origin_of(store: ModelStore, manifest: Manifest) -> Origin | str:
    """Return the version that a published one went on from, to train that one again.

    Raises:
        RequestError: it is gone, or its weights are others now.
        WeightsError: it is damaged.
    """
    parent = manifest.parent
    if parent is None:
        return "so it did when it was made"
    if parent.version not in store.versions():
        raise RequestError(
            f"Version {manifest.version} went on from version {parent.version}, which was deleted: "
            "it cannot be trained again."
        )
    origin = _read(store, parent.version)
    if origin.parent != parent:
        raise RequestError(
            f"Version {manifest.version} went on from version {parent.version}, whose weights have "
            "changed since: it cannot be trained again."
        )
    return origin


def choose_start(
    origin: Origin | str, pool: Pool, grids: Sequence[Grid], settings: RoundSettings
) -> Start:
    """Choose what a round starts from.

    Args:
        origin: a version that it may go on from, or why there is none.
        pool: the round's cases.
        grids: of their scans.
        settings: the round's settings.

    Raises:
        TrainingError: the preset does not suit the scans.
    """
    own = choose_sizes(grids, pool.labeled, settings)
    why = origin
    if isinstance(origin, Origin):
        sizes = fit_sizes(own.name, origin.manifest.space, grids)
        why = _obstacle(origin.manifest, pool, own, sizes, settings)
        if not why:
            return Start(origin, sizes, f"Goes on from version {origin.parent.version}.")
    return Start(None, own, f"Begins with random weights: {why}.")


def _obstacle(made: Manifest, pool: Pool, own: Sizes, sizes: Sizes, settings: RoundSettings) -> str:
    """Return why a round cannot go on from a version; empty if it can."""
    number = made.version
    if RECIPES[settings.mode] is not INTENDED:
        return f"mode {settings.mode} trains as the authors' code does"
    for name in ("labels", "mode", "modality", "generalist"):
        if getattr(made, name) != getattr(settings, name):
            return f"version {number} was made with another setting '{name}'"
    if (own.name, sizes.preset.spec) != (made.preset, made.spec):
        return f"version {number} is another network"
    then, now = np.array(made.spacing_mm), np.array(own.space.spacing_mm)
    if own.space.axcodes != made.axcodes or max(*(then / now), *(now / then)) > SIMILAR:
        return f"the scans' voxels are of another size than those of version {number}"
    changed = _changed(made, pool, settings)
    if changed:
        return f"since version {number}, scan or label changed or went: {', '.join(changed)}"
    return ""


def _changed(made: Manifest, pool: Pool, settings: RoundSettings) -> list[str]:
    """Return the annotated cases of a version that are not in the pool as they were."""
    folder = settings.folder.prepared_cache
    prepared = CaseStore(folder, made.space, modality=made.modality, labels=made.labels)

    def digests(case: Case, part: str) -> tuple[str, str]:
        scan = prepared.key(case) if part == "labeled" else file_digest(case.image)
        return scan, file_digest(case.label) if case.label else ""

    changed = []
    for part in ("labeled", "held_out"):
        now = {case.name: case for case in getattr(pool, part)}
        for name in made.cases[part]:
            if name not in now or digests(now[name], part) != made.digests.get(name):
                changed.append(name)
    return changed


def _read(store: ModelStore, version: int) -> Origin:
    student, manifest = store.load(version)
    weights = file_digest(store.folder.weights(version))
    return Origin(student, manifest, Parent(version=version, weights=weights))


def children(
    store: ModelStore, version: int, labels: Mapping[str, str]
) -> Iterator[tuple[int, Manifest]]:
    """Yield the versions that went on from another one, made with these labels.

    Args:
        store: where they are.
        version: number of the one that they went on from.
        labels: digests of the annotated cases' labels, see `labels_of`.
    """
    for number in store.versions():
        with contextlib.suppress(WeightsError):  # a damaged one says nothing
            made = store.manifest(number)
            if made.parent and made.parent.version == version and made.label_digests == labels:
                yield number, made


def labels_of(pool: Pool) -> dict[str, str]:
    """Return the digests of a pool's labels, as `Manifest.label_digests` has them."""
    annotated = (*pool.labeled, *pool.held_out)
    return {case.name: file_digest(case.label) for case in annotated if case.label is not None}
