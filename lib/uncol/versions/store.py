"""Published students: version folders that are never half written, and which one is current.

The files are those of `storage/model_folder.py`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
from filelock import FileLock
from pydantic import ValidationError
from safetensors import SafetensorError

from uncol.errors import RequestError, StorageError, WeightsError, why
from uncol.networks.student import Student
from uncol.networks.weights import load_state
from uncol.storage.files import append_line, flush, write_text
from uncol.storage.model_folder import ModelFolder
from uncol.versions.manifest import Manifest


class ModelStore:
    """The versions of one model in a folder."""

    def __init__(self, model_dir: Path) -> None:
        """Open the store of a model folder, which need not exist yet."""
        self.folder = ModelFolder(model_dir)

    def current(self) -> int | None:
        """Return the served version's number, or None before the first one."""
        try:
            return int(self.folder.current.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def versions(self) -> list[int]:
        """Return the numbers of all complete versions, oldest first."""
        parent = self.folder.versions
        names = os.listdir(parent) if parent.is_dir() else []
        return sorted(int(name) for name in names if name.isdigit())

    def manifest(self, version: int) -> Manifest:
        """Return a version's manifest.

        Raises:
            WeightsError: there is no such version, or its manifest is damaged.
        """
        path = self.folder.manifest(version)
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
        path = self.folder.weights(version)
        student = Student(manifest.spec, len(manifest.labels) + 1)
        try:
            state = safetensors.torch.load_file(path)
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"Weights of model version {version} cannot be read: {error}"
            ) from error
        load_state(student, state, origin=str(path))
        return student.eval(), manifest

    def publish(self, student: Student, manifest: Manifest) -> int:
        """Write a new version, and make it the current one unless the gate refused it.

        The folder appears under its number by one rename, and `current` changes by another, so
        whoever reads at any moment sees a complete old or a complete new version.

        Raises:
            StorageError: it could not be written; what is served is the old version, or the new one
                if only the note of it failed.
        """
        parent = self.folder.versions
        partial = parent / f".partial-{os.getpid()}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with FileLock(str(self.folder.lock)):
                version = max([*self.versions(), *self._deleted()], default=0) + 1
                for left_over in parent.glob(".partial-*"):  # of a publisher that was killed
                    shutil.rmtree(left_over, ignore_errors=True)
                partial.mkdir()
                state = {k: v.detach().cpu().contiguous() for k, v in student.state_dict().items()}
                weights = partial / self.folder.weights(version).name
                safetensors.torch.save_file(state, weights)
                made = manifest.model_copy(update={"version": version})
                written = partial / self.folder.manifest(version).name
                written.write_text(made.model_dump_json(indent=2))
                flush(weights, written)
                os.rename(partial, parent / str(version))
                refused = manifest.gate is not None and not manifest.gate.published
                if not refused:
                    self._make_current(version)
                self._note("refused" if refused else "published", version)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise StorageError(
                f"Could not publish the new model in {self.folder.student}: {why(error)}. The "
                "served model is unchanged. Free some disk space and train again."
            ) from error
        return version

    def check(self, version: int) -> None:
        """Check that a complete version has this number.

        Raises:
            RequestError: none has.
        """
        if version not in self.versions():
            listed = ", ".join(map(str, self.versions())) or "none"
            raise RequestError(f"There is no model version {version}; there are: {listed}.")

    def rollback(self, version: int | None = None) -> int:
        """Serve an earlier version again, or any complete one.

        Args:
            version: its number; without one, the latest that was published before the current.

        Returns:
            The version served from now on.

        Raises:
            RequestError: there is no such version, or none before.
            WeightsError: it is damaged; the served version is unchanged.
            StorageError: it could not be written.
        """
        with self._locked():
            now = self.current()
            if version is None:
                before = [n for n in self.versions() if n < (now or 0) and self._served_once(n)]
                if not before:
                    raise RequestError(f"There is no version before {now} to go back to.")
                version = before[-1]
            self.check(version)
            self.load(version)
            # so that it scores each case again: the pre-labels and maps that annotators see
            # are the later version's
            self.folder.notes(version).scores.unlink(missing_ok=True)
            self._make_current(version)
            self._note("rollback", version)
        return version

    def gc(self, keep: int) -> list[int]:
        """Delete old versions with all that was found out about them.

        Args:
            keep: how many of the newest stay, besides the served one and its parent, without which
                it could not be trained again.

        Returns:
            The deleted versions.

        Raises:
            StorageError: something could not be deleted.
        """
        with self._locked():
            newest, needed = self.versions(), self._needed()
            gone = [n for n in newest[: max(0, len(newest) - keep)] if n not in needed]
            for version in gone:
                self._note("deleted", version)
                away = self.folder.versions / f".partial-gone-{version}"
                os.rename(
                    self.folder.versions / str(version), away
                )  # at any moment it is complete or absent
                shutil.rmtree(away, ignore_errors=True)
                shutil.rmtree(self.folder.notes(version).folder, ignore_errors=True)
        return gone

    def events(self) -> list[dict[str, Any]]:
        """Return what happened, oldest first: `time`, `event`, `version`."""
        try:
            lines = self.folder.events.read_text().splitlines()
        except FileNotFoundError:
            return []
        events = []
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):  # a line that a kill cut short
                events.append(json.loads(line))
        return events

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.student.mkdir(parents=True, exist_ok=True)
            with FileLock(str(self.folder.lock)):
                yield
        except OSError as error:
            raise StorageError(
                f"The models in {self.folder.student} cannot be changed: {error}"
            ) from error

    def _needed(self) -> set[int | None]:
        """Return the served version and its parent."""
        now = self.current()
        with contextlib.suppress(WeightsError):  # a damaged manifest names no parent
            parent = now and self.manifest(now).parent
            return {now, parent.version if parent else None}
        return {now}

    def _served_once(self, version: int) -> bool:
        gate = self.manifest(version).gate
        return gate is None or gate.published

    def _deleted(self) -> list[int]:
        return [one["version"] for one in self.events() if one["event"] == "deleted"]

    def _note(self, event: str, version: int) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": now, "event": event, "version": version})
        append_line(self.folder.events, line)

    def _make_current(self, version: int) -> None:
        write_text(self.folder.current, str(version))
