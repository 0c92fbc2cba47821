"""What comes from outside, as it may be kept: plain names, text and JSON of bounded size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from uncol.errors import RequestError, why

NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")
MOST_BYTES = 2**20  # of a request's JSON
MOST_DEPTH = 12
MOST_NOTE_BYTES = 2**16
REPEATED = 80  # characters of somebody's text that a message repeats


class PlainName(str):
    """A text that can be a file's name and nothing else; only `plain_name` makes one."""

    __slots__ = ()


def is_plain(text: str) -> bool:
    """Say whether a text can be a file's name, in any folder and in UTF-8."""
    if not NAME.fullmatch(text) or text.startswith("."):
        return False
    try:
        return len(text.encode()) <= 240  # a name may take 255 bytes; an extension follows
    except UnicodeEncodeError:  # half of a character, as a name of another encoding decodes to
        return False


def plain_name(text: object, kind: str) -> PlainName:
    """Return a client's text as a name.

    Args:
        text: what came.
        kind: what it names, for the message.

    Raises:
        RequestError: it is empty, too long, hidden, not UTF-8, or holds a path separator.
    """
    if not isinstance(text, str) or not is_plain(text):
        raise RequestError(
            f"{shown(text)} is not a valid {kind}: it must be a plain file name of at most 200 "
            "characters, without slashes and not starting with a dot."
        )
    return PlainName(str.__str__(text))  # of an Enum, its value and not its name


def path_in(folder: Path | str, name: PlainName, ending: str = "") -> Path:
    """Return a file's path: the only place where a client's text becomes part of one.

    Args:
        folder: one of the server's own folders.
        name: a checked name.
        ending: an extension, with its dot.

    Raises:
        TypeError: the name was not checked.
    """
    if not isinstance(name, PlainName):
        raise TypeError(f"{name!r} was not checked with plain_name")
    return Path(folder) / f"{name}{ending}"


def shown(value: object) -> str:
    """Return somebody's text for a message: short, in quotes, in characters that can be sent."""
    return repr(str(value).encode("utf-8", "backslashreplace").decode()[:REPEATED])


def parse_json(text: str | bytes, what: str) -> Any:
    """Parse a client's JSON.

    Args:
        text: the JSON; empty text is an empty object.
        what: what it is, for the message.

    Raises:
        RequestError: it is not JSON, holds NaN or infinite numbers, halves of characters, or
            nests or weighs too much.
    """
    if len(text) > MOST_BYTES:
        raise RequestError(f"{what} is larger than {MOST_BYTES // 2**20} MiB.")
    if not text.strip():
        return {}
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"{what} is not valid JSON: {why(error)}.") from error
    _check_depth(value, what)
    return value


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Parse a client's JSON object; raises as `parse_json`."""
    value = parse_json(text, what)
    if not isinstance(value, dict):
        raise RequestError(f"{what} must be a JSON object, got {shown(value)}.")
    return value


def check_notes(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return notes on a case or label, as they can be kept as JSON and read again.

    Raises:
        RequestError: they are no JSON object, or nest or weigh too much.
    """
    what = "The info of a case or label"
    try:
        text = to_json(dict(notes), inf_nan_mode="constants", fallback=str)
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError(f"{what} cannot be kept: {why(error)}.") from error
    if len(text) > MOST_NOTE_BYTES:
        raise RequestError(f"{what} takes {len(text)} bytes, at most {MOST_NOTE_BYTES} are kept.")
    return parse_object(text, what)


def _check_depth(value: Any, what: str, depth: int = 0) -> None:
    if depth > MOST_DEPTH:
        raise RequestError(f"{what} nests deeper than {MOST_DEPTH} levels.")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        _check_depth(one, what, depth + 1)
