"""The index that MONAI Label and earlier versions kept of a studies folder; it is read once."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from uncol.errors import RequestError
from uncol.storage.plain import check_notes, is_plain

logger = logging.getLogger(__name__)

INDEX = "datastore_v2.json"
DONE = f"{INDEX}.taken-over"


@dataclass(frozen=True)
class EarlierCase:
    """What an index says of a case.

    Attributes:
        info: notes on its scan.
        labels: extension and notes of its labels, by tag.
    """

    info: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    def info_of(self, tag: str, file: str) -> dict[str, Any]:
        """Return the notes of a label file; empty if the index means another one."""
        extension, info = self.labels.get(tag, ("", {}))
        return dict(info) if extension and file.endswith(extension) else {}


def read_index(folder: Path) -> dict[str, EarlierCase]:
    """Return what the index of a folder says, by case; what cannot be kept is left out and told."""
    try:
        text = (folder / INDEX).read_bytes()
    except OSError:
        return {}
    try:
        objects = from_json(text)["objects"].items()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        logger.error(
            "The index %s of an earlier version cannot be read: scans and labels are found anew, "
            "but who submitted them and with what names is known only where the history says it "
            "(%s).",
            INDEX,
            " ".join(str(error).split())[:200],
        )
        return {}
    cases = {}
    for name, item in objects:
        try:
            if is_plain(name):
                cases[name] = _case(item)
        except (TypeError, KeyError, AttributeError) as error:
            logger.error("The entry '%s' in %s is left out: %s.", name, INDEX, error)
    return cases


def retire_index(folder: Path) -> None:
    """Give the index another name, once all that it says was taken over."""
    if (folder / INDEX).exists():
        os.replace(folder / INDEX, folder / DONE)


def _case(item: Any) -> EarlierCase:
    labels = {
        tag: (str(label.get("ext", "")), _notes(label.get("info")))
        for tag, label in (item.get("labels") or {}).items()
        if is_plain(tag)
    }
    return EarlierCase(_notes((item.get("image") or {}).get("info")), labels)


def _notes(info: Any) -> dict[str, Any]:
    """Return notes, each by itself: one that cannot be kept does not take the others along."""
    notes: dict[str, Any] = {}
    for word, value in (info or {}).items():
        try:
            notes |= check_notes({str(word): value})
        except (RequestError, TypeError, ValueError) as error:
            logger.warning("The note '%s' of an earlier version is left out: %s", word, error)
    return notes
