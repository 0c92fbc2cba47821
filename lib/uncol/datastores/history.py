"""Earlier versions of submitted labels: nothing that an annotator drew is ever overwritten."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uncol.storage.files import file_digest

FOLDER = ".history"  # in the studies folder; MONAI Label looks for labels in labels/ only


@dataclass(frozen=True)
class Kept:
    """An earlier version of a label.

    Attributes:
        path: its file, in the app's values.
        until: when it was replaced or removed, UTC, ISO 8601.
        info: what was known about it: `user`, `ts` (when it was submitted), `label_info`.
    """

    path: Path
    until: str
    info: dict[str, Any]


class History:
    """`.history/<case>/<until>-<digest><extension>`, with a `.json` of the same name."""

    def __init__(self, studies: Path) -> None:
        """Open the history of a studies folder; it need not exist yet."""
        self._folder = studies / FOLDER

    def keep(self, case: str, label: Path, extension: str, info: Mapping[str, Any]) -> None:
        """Keep a copy of a label that is about to be replaced or removed.

        Raises:
            OSError: the copy cannot be written; the label is unchanged.
        """
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%S.%fZ")
        target = self._folder / case / f"{now}-{file_digest(label)[:12]}{extension}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(f"{target.name}.json").write_text(json.dumps(dict(info), default=str))
        try:
            os.link(label, target)
        except OSError:  # a file system without links
            partial = target.with_name(f".{target.name}")
            shutil.copyfile(label, partial)
            os.replace(partial, target)

    def of(self, case: str) -> list[Kept]:
        """Return all earlier versions of a case's label, oldest first."""
        folder = self._folder / case
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        labels = []
        for name in names:
            if not name.endswith(".json") or not (folder / name[: -len(".json")]).exists():
                continue
            info = json.loads((folder / name).read_text())
            path = folder / name[: -len(".json")]
            labels.append(Kept(path, name.split("Z-")[0] + "Z", info))
        return labels
