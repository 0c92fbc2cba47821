"""JSON answers, whatever is in them."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic_core import to_json


class Answer(JSONResponse):
    """JSON in which a number that JSON cannot hold is null, and half a character is "?"."""

    def render(self, content: Any) -> bytes:
        """Return the bytes."""
        try:
            return to_json(content, inf_nan_mode="null", fallback=str)
        except ValueError:
            return to_json(_sound(content), inf_nan_mode="null", fallback=str)


def _sound(content: Any) -> Any:
    if isinstance(content, str):
        return content.encode("utf-8", "replace").decode()
    if isinstance(content, dict):
        return {_sound(str(key)): _sound(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_sound(value) for value in content]
    return content
