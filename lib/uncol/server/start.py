"""What a person reads when the server cannot start: one line instead of a trace."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import psutil

from uncol.errors import SettingsError

ENDED = re.compile(r"^uncol\.errors\.\w+: (?P<told>.+)\Z", re.MULTILINE | re.DOTALL)


class _OneLine(logging.Filter):
    """Replaces a trace that ends in one of our errors by that error's words."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; all pass."""
        text = record.getMessage()
        end = ENDED.search(text.strip()) if text.startswith("Traceback") else None
        if end:
            record.msg, record.args = f"Error: uncol cannot start: {end['told']}", None
        return True


def say_in_one_line() -> None:
    """Let uvicorn, which logs whatever stops the start, say it in one line."""
    log = logging.getLogger("uvicorn.error")
    if not any(isinstance(one, _OneLine) for one in log.filters):
        log.addFilter(_OneLine())


def refuse_new_folder(studies: Path) -> None:
    """Refuse a studies folder that MONAI Label has just made: nothing was where the user pointed.

    Raises:
        SettingsError: it is such a folder; it is removed again.
    """
    started = psutil.Process().create_time()
    if not studies.is_dir() or any(studies.iterdir()) or studies.stat().st_ctime < started:
        return
    studies.rmdir()
    raise SettingsError(f"There is no folder {studies}. Check --studies, or make the folder first.")
