"""Is a version what its manifest says? Score it again, or train it again, and compare."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from uncol.data.cases import Case, Pool
from uncol.errors import RequestError
from uncol.packages import package_versions
from uncol.round_settings import RoundSettings
from uncol.storage.files import file_digest
from uncol.training.fit import fit
from uncol.training.reporter import Reporter
from uncol.training.start import origin_of
from uncol.versions.loaded import judge, load_version
from uncol.versions.manifest import Manifest
from uncol.versions.metrics import mean_of
from uncol.versions.store import ModelStore

SAME_DICE = 1e-3  # other hardware and thread counts round differently


@dataclass(frozen=True)
class Verification:
    """What a check of a version found.

    Attributes:
        changed: cases whose label at that time is neither the current one nor in the history.
        dice: by held-out case, mean Dice as published and as found now.
        weights: largest difference of any weight after training again; None if not trained again.
        packages: by name, the version that made it and the one installed, where they differ.
    """

    changed: list[str]
    dice: dict[str, tuple[float, float]]
    weights: float | None
    packages: dict[str, tuple[str, str]]

    @property
    def holds(self) -> bool:
        """Whether everything that was compared agrees."""
        close = all(abs(then - now) <= SAME_DICE for then, now in self.dice.values())
        return close and not self.changed and not self.weights


def verify(
    store: ModelStore,
    version: int,
    cases: Sequence[Case],
    earlier: Mapping[str, Sequence[Path]],
    settings: RoundSettings,
    reporter: Reporter,
    *,
    retrain: bool,
) -> Verification:
    """Compare a version with its manifest.

    Args:
        store: where it is.
        version: its number.
        cases: the pool as it is now.
        earlier: files of earlier labels by case, among which those of that time are found.
        settings: device, weights and folder; the rest is the manifest's.
        reporter: receives the progress.
        retrain: also train it again. The weights agree to the last bit on the same kind of CPU with
            the same packages and number of threads.

    Raises:
        RequestError: there is no such version; one of its cases, or the version that it went on
            from, is gone.
        WeightsError: its files are damaged.
    """
    store.check(version)
    published = load_version(store, version, settings.device)
    manifest = published.manifest
    pool, changed = _pool_of_then(manifest, cases, earlier)
    dice = {}
    if manifest.accuracy is not None:
        by_case = judge(published, pool.held_out, released=manifest.recipe.empty_scores_zero)
        then = manifest.accuracy.per_case
        dice = {name: (then[name], mean_of(by_case[name])) for name in by_case if name in then}
    weights = None
    if retrain:
        with tempfile.TemporaryDirectory() as runs:
            origin = origin_of(store, manifest)
            again = fit(pool, _settings_of_then(manifest, settings), reporter, Path(runs), origin)
        if again.manifest.parent != manifest.parent and not changed:
            raise RequestError(
                f"Version {version} cannot be trained again as it was: {again.manifest.start}"
            )
        new, old = again.student.state_dict(), published.student.state_dict()
        weights = max(float((new[k].double() - old[k].double()).abs().max()) for k in old)
    made_by, here = manifest.packages, package_versions()
    differ = {
        name: (made_by[name], here.get(name, "none"))
        for name in made_by
        if made_by[name] != here.get(name)
    }
    return Verification(changed, dice, weights, differ)


def _pool_of_then(
    manifest: Manifest, cases: Sequence[Case], earlier: Mapping[str, Sequence[Path]]
) -> tuple[Pool, list[str]]:
    now = {case.name: case for case in cases}
    parts: dict[str, tuple[Case, ...]] = {}
    changed = []
    for part in ("labeled", "unlabeled", "held_out"):
        missing = [name for name in manifest.cases[part] if name not in now]
        if missing:
            raise RequestError(
                f"Version {manifest.version} was made with cases that are gone: "
                f"{', '.join(missing)}. Put their scans back to verify it."
            )
        chosen = []
        for name in manifest.cases[part]:
            case: Case | None = now[name]
            if name in manifest.digests:
                case = _with_label(now[name], manifest.digests[name][1], earlier.get(name, ()))
            if case is None:
                changed.append(name)
                case = now[name]
            chosen.append(case)
        parts[part] = tuple(chosen)
    return Pool(parts["labeled"], parts["unlabeled"], parts["held_out"]), changed


def _with_label(case: Case, digest: str, earlier: Sequence[Path]) -> Case | None:
    """Return a case with the label of a digest (no label if it is empty); None if not found."""
    if not digest:
        return replace(case, label=None)
    for path in (*([case.label] if case.label else []), *earlier):
        if file_digest(path) == digest:
            return replace(case, label=path)
    return None


def _settings_of_then(manifest: Manifest, settings: RoundSettings) -> RoundSettings:
    torch.set_num_threads(manifest.options.threads or torch.get_num_threads())
    return replace(
        settings,
        labels=manifest.labels,
        preset=manifest.preset,
        generalist=manifest.generalist,
        mode=manifest.mode,
        modality=manifest.modality,
        seed=manifest.seed,
        step_scale=manifest.options.step_scale,
        labeled_only=manifest.options.labeled_only,
        idle=manifest.idle,
    )
