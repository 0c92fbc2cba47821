"""Keep what a module inside somebody else's network puts out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def keeper(kept: dict[int, Any], index: int) -> Callable[[nn.Module, Any, Any], None]:
    """Return a forward hook that puts the module's output at `kept[index]`."""

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        kept[index] = output

    return keep
