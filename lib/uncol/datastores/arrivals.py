"""Files that are not whole yet, and what was left of some that never will be."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from uncol.datastores.listing import LABELS, OURS, FolderContent, Stamp
from uncol.datastores.record import ScanRow

SETTLED_S = 2.0  # a new file that has not changed for so long is whole
LONG_AGO_S = 10.0  # one that was last changed so long ago is whole at once
LEFT_S = 3600  # a file that was half-written so long ago was left by a writer that was killed


class Arrivals:
    """Knows which scans changed a moment ago."""

    def __init__(self) -> None:
        """Start with none."""
        self._arriving: dict[str, tuple[Stamp, float]] = {}

    def hold_back(self, content: FolderContent, rows: Mapping[str, ScanRow]) -> None:
        """Leave out files that may still be arriving.

        Args:
            content: what the folder holds; such files are taken out of it.
            rows: what is known of its scans.
        """
        now, clock = time.monotonic(), time.time_ns()
        arriving: dict[str, tuple[Stamp, float]] = {}
        for name, (file, stamp) in list(content.scans.items()):
            row = rows.get(name)
            if _is_whole(row, file, stamp, clock):
                continue
            before, since = self._arriving.get(name, (stamp, now))
            since = since if before == stamp else now
            if now - since < SETTLED_S:
                arriving[name] = (stamp, since)
                del content.scans[name]
                if row is not None and row.present:  # it is there, but not as it was
                    content.waiting.add(name)
        self._arriving = arriving


def _is_whole(row: ScanRow | None, file: str, stamp: Stamp, clock: int) -> bool:
    """Say whether a file is as it was, or is new and has not changed for long."""
    if row is None:
        return clock - stamp.mtime_ns > LONG_AGO_S * 1e9
    return row.present and (row.file, row.stamp) == (file, stamp)


def sweep(root: Path) -> None:
    """Remove what writers that were killed left half-written in a studies folder."""
    for folder in (root, *root.glob(f"{LABELS}/*/")):
        for path in folder.glob(f"{OURS}*"):
            with suppress(OSError):
                if path.is_file() and time.time() - path.stat().st_mtime > LEFT_S:
                    path.unlink()
