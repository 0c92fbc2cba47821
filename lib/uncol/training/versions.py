"""Published students: version folders that are never half written, and which one is current.

model_dir/uncol/versions/<n>/student.safetensors   weights
model_dir/uncol/versions/<n>/manifest.json         how it was made
model_dir/uncol/current                            the number of the served version
model_dir/uncol/scores/<n>/                        what was found out about it after publishing
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from uncol.data.frame import Space
from uncol.errors import StorageError, WeightsError
from uncol.networks.student import Student, StudentSpec
from uncol.networks.weights import load_state

WEIGHTS = "student.safetensors"
MANIFEST = "manifest.json"


class Manifest(BaseModel):
    """How a version was made, and what is needed to run it.

    Attributes:
        version: its number, from 1.
        created: UTC time, ISO 8601.
        labels: name to value.
        preset: resolved preset name.
        spec: the student's sizes, as fields of `StudentSpec`.
        window: sliding window in working voxels.
        axcodes: the working axes.
        spacing_mm: the working voxel size.
        modality: intensity normalization.
        mode: `intended` or `release`.
        teacher: the generalized teacher's name.
        seed: seed of the run.
        cases: names by part: `labeled`, `unlabeled`, `held_out`, `left_out`.
        metrics: Dice a label on held-out cases, or empty when none are held out.
        packages: versions of what computed it.
        plan: the budget.
    """

    model_config = ConfigDict(frozen=True)

    version: int = 0
    created: str
    labels: dict[str, int]
    preset: str
    spec: dict[str, Any]
    window: tuple[int, int, int]
    axcodes: str
    spacing_mm: tuple[float, float, float]
    modality: str
    mode: str
    teacher: str
    seed: int
    cases: dict[str, list[str]]
    metrics: dict[str, float]
    packages: dict[str, str]
    plan: dict[str, int]

    @property
    def space(self) -> Space:
        """The model's space."""
        return Space(self.axcodes, self.spacing_mm)


class ModelStore:
    """The versions of one model in a folder."""

    def __init__(self, folder: Path) -> None:
        """Open a store; the folder need not exist yet."""
        self.folder = folder

    def current(self) -> int | None:
        """Return the served version's number, or None before the first one."""
        try:
            return int((self.folder / "current").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def versions(self) -> list[int]:
        """Return the numbers of all complete versions, oldest first."""
        parent = self.folder / "versions"
        names = os.listdir(parent) if parent.is_dir() else []
        return sorted(int(name) for name in names if name.isdigit())

    def manifest(self, version: int) -> Manifest:
        """Return a version's manifest.

        Raises:
            WeightsError: there is no such version, or its manifest is damaged.
        """
        path = self._path(version) / MANIFEST
        try:
            return Manifest.model_validate_json(path.read_text())
        except (OSError, ValidationError) as error:
            raise WeightsError(
                f"Model version {version} cannot be read ({path}): {error}"
            ) from error

    def load(self, version: int) -> tuple[Student, Manifest]:
        """Load a version on the CPU, in evaluation mode.

        Raises:
            WeightsError: weights or manifest are missing, damaged or do not fit each other.
        """
        manifest = self.manifest(version)
        path = self._path(version) / WEIGHTS
        student = Student(spec_from(manifest.spec), len(manifest.labels) + 1)
        try:
            state = safetensors.torch.load_file(path)
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"Weights of model version {version} cannot be read: {error}"
            ) from error
        load_state(student, state, origin=str(path))
        return student.eval(), manifest

    def sidecars(self, version: int) -> Path:
        """Return the folder of what was found out about a version after publishing."""
        return self.folder / "scores" / str(version)

    def publish(self, student: Student, manifest: Manifest) -> int:
        """Write a new version and make it the current one.

        The folder appears under its number by one rename, and `current` changes by another, so
        whoever reads at any moment sees a complete old or a complete new version.

        Raises:
            StorageError: it could not be written; the served version is the one before.
        """
        parent = self.folder / "versions"
        partial = parent / f".partial-{os.getpid()}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with FileLock(str(self.folder / ".lock")):
                version = max(self.versions(), default=0) + 1
                for left_over in parent.glob(".partial-*"):  # of a publisher that was killed
                    shutil.rmtree(left_over, ignore_errors=True)
                partial.mkdir()
                state = {k: v.detach().cpu().contiguous() for k, v in student.state_dict().items()}
                safetensors.torch.save_file(state, partial / WEIGHTS)
                made = manifest.model_copy(update={"version": version})
                (partial / MANIFEST).write_text(made.model_dump_json(indent=2))
                _flush(partial / WEIGHTS, partial / MANIFEST)
                os.rename(partial, self._path(version))
                self._make_current(version)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise StorageError(
                f"Could not publish the new model in {self.folder}: {error}. The served model is "
                "unchanged. Free some disk space and train again."
            ) from error
        return version

    def _path(self, version: int) -> Path:
        return self.folder / "versions" / str(version)

    def _make_current(self, version: int) -> None:
        write_atomically(self.folder / "current", str(version))


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    _flush(partial)
    os.replace(partial, path)


def write_json(path: Path, value: object) -> None:
    """Replace a JSON file in one step; makes its folder.

    Raises:
        StorageError: it could not be written; what was there is unchanged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(value))
    except OSError as error:
        raise StorageError(f"Could not write {path}: {error}. Free some disk space.") from error


def spec_to(spec: StudentSpec) -> dict[str, Any]:
    """Return a spec as plain values."""
    return asdict(spec)


def spec_from(values: dict[str, Any]) -> StudentSpec:
    """Return a spec from plain values, lists made tuples again."""
    strides = tuple((int(i), int(j), int(k)) for i, j, k in values["strides"])
    channels = tuple(int(c) for c in values["channels"])
    return StudentSpec(**{**values, "channels": channels, "strides": strides})


def _flush(*paths: Path) -> None:
    for path in paths:
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())
