"""Keep a folder of things that can be made again within its limit."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

OLD_S = 24 * 3600.0  # a partial file this old belongs to a process that was killed


def trim(folder: Path, limit_bytes: int) -> None:
    """Delete the least recently used files until a folder fits its limit.

    Other processes may delete in it at the same time. A file that is mapped stays readable.

    Args:
        folder: the folder; hidden files and what is in folders in it are left alone.
        limit_bytes: how much may stay.
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
