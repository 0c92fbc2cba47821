"""An append-only file of records, one per case: what a background run found, safe against kills."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from uncol.storage.files import append_line


class Record(BaseModel):
    """What is known about one case.

    Attributes:
        case: its name.
        scan: the stamp of its scan at that time; empty if nobody kept track.
    """

    model_config = ConfigDict(frozen=True)

    case: str
    scan: str = ""

    def holds_for(self, stamp: str) -> bool:
        """Return whether the scan is still the one that this was found out about."""
        return self.scan in ("", stamp)


R = TypeVar("R", bound=Record)


class Ledger(Generic[R]):
    """Records of one kind in a JSON lines file; the last record of a case counts."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        """Open a file; it need not exist yet.

        Args:
            path: the file.
            kind: the model of its records.
        """
        self.path = path
        self._kind = kind
        self._cached: tuple[tuple[int, int], dict[str, R]] = ((0, 0), {})

    @property
    def stamp(self) -> tuple[int, int]:
        """Changes whenever the file does."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return (0, 0)
        return (status.st_size, status.st_mtime_ns)

    def read(self) -> dict[str, R]:
        """Return all records by case; empty before the first.

        A line that a kill cut short is left out.
        """
        stamp = self.stamp
        if stamp == (0, 0):
            return {}
        if stamp != self._cached[0]:
            records = {}
            for line in self.path.read_bytes().splitlines():
                try:
                    record = self._kind.model_validate_json(line)
                except ValidationError:
                    continue
                records[record.case] = record
            self._cached = (stamp, records)
        return self._cached[1]

    def add(self, record: R) -> None:
        """Append a record.

        Raises:
            StorageError: it cannot be written; the others are unchanged.
        """
        append_line(self.path, record.model_dump_json())
