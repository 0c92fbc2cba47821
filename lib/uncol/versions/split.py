"""The frozen split: which annotated cases train and which judge, decided once and kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from uncol.data.cases import Case, Pool, Side, decide, split
from uncol.errors import StorageError, why
from uncol.storage.files import write_json

SIDES = TypeAdapter(dict[str, Side])


class FrozenSplit:
    """`split.json`: each case's side, by id. A case that trained never judges, and vice versa."""

    def __init__(self, path: Path) -> None:
        """Open a split; nothing need be decided yet."""
        self.path = path

    def sides(self) -> dict[str, Side]:
        """Return what was decided.

        Raises:
            StorageError: the file is damaged. Deciding again could let a judging case train.
        """
        try:
            return SIDES.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            raise StorageError(
                f"{self.path}, which lists what never trains, cannot be read: {why(error)}. "
                "Restore it from a backup, or start with another model_dir."
            ) from error

    def of(self, cases: Iterable[Case]) -> Pool:
        """Split a pool; annotated cases seen for the first time are decided on, for good.

        Raises:
            StorageError: it cannot be read or written.
        """
        pool = list(cases)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            before = self.sides()
            annotated = [case.name for case in pool if case.label is not None]
            after = decide(annotated, before, {case.name: case.patient for case in pool})
            if after != before:
                write_json(self.path, after)
        return split(pool, after)
