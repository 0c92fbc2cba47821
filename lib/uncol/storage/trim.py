"""Keep a folder of recomputable files within its size limit."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

OLD_S = 24 * 3600.0  # a partial file this old belongs to a process that was killed


def trim(folder: Path, limit_bytes: int) -> None:
    """Delete the least recently used files until a folder fits its limit.

    Other processes may delete files in it at the same time. A memory-mapped file stays readable.

    Args:
        folder: the folder; hidden files and subfolders in it are left alone.
        limit_bytes: total size of the files that may stay.
    """
    now = time.time()
    files = []
    for path in folder.iterdir():
        if path.name.startswith(".") or path.is_dir():
            continue
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            status = path.stat()
            if path.suffix != ".partial":
                files.append((status.st_mtime, status.st_size, path))
            elif now - status.st_mtime > OLD_S:
                path.unlink()
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit_bytes:
            return
        total -= size
        path.unlink(missing_ok=True)
