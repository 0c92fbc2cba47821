"""The server's own paths, taken out of what clients get."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PATH = re.compile(r"(?<![\w/:.])/([\w.+~-]+)(?:/[\w.+~@-]+)*/?")


class Places:
    """Takes the server's own paths out of what clients get."""

    def __init__(self, named: Iterable[tuple[str, Path]]) -> None:
        """Know folders by the names that people use for them.

        Args:
            named: name and folder, as `("studies", Path(...))`.
        """
        pairs = [(str(folder), name) for name, folder in named]
        self._named = sorted(pairs, key=lambda pair: -len(pair[0]))

    def hide(self, text: str) -> str:
        """Return a text with the server's folders by name, and of other paths the last part."""
        if "/" not in text:
            return text
        for folder, name in self._named:
            text = text.replace(folder, name)
        return PATH.sub(_last_part, text)

    def hide_in(self, value: Any) -> Any:
        """Return JSON with the paths in its texts hidden."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, Mapping):
            return {key: self.hide_in(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide_in(one) for one in value]
        return value


def _last_part(match: re.Match[str]) -> str:
    """Keep what only looks like a path, as the addresses of our own pages."""
    if not os.path.isdir(f"/{match.group(1)}"):
        return match.group()
    return match.group().rstrip("/").rpartition("/")[2]
