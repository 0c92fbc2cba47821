"""What the server knows of a studies folder's scans and labels, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from uncol.data.identity import ScanIdentity
from uncol.data.imagefile import file_extension
from uncol.datastores.listing import FINAL, FolderContent, Stamp
from uncol.storage.database import Database, Table

FILE = "uncol.sqlite"  # in the studies folder


class FileRow(BaseModel):
    """A file.

    Attributes:
        file: relative to the studies folder, with `/`.
        size: bytes when it was last seen.
        mtime_ns: time of its last change then, ns.
        ctime_ns: the same of any kind of change, ns.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0

    @property
    def extension(self) -> str:
        """Its file's extension, with the dot."""
        return file_extension(self.file)

    @property
    def stamp(self) -> Stamp:
        """What it looked like when it was last seen."""
        return Stamp(self.size, self.mtime_ns, self.ctime_ns)

    def is_as_seen(self, root: Path) -> bool:
        """Return whether the file still looks as it did."""
        try:
            return Stamp.of(root / self.file) == self.stamp
        except OSError:
            return False

    def seen(self, file: str, stamp: Stamp) -> Self:
        """Return the row of the file as it looks now."""
        return self.model_copy(update={"file": file, **asdict(stamp)})


class ScanRow(FileRow):
    """A scan.

    Attributes:
        identity: which scan it is; None until it was read.
        before: which scan the file held before it changed; None once that was compared.
        present: whether its file is there.
        unusable: why it cannot be used; empty if it can, as far as is known.
        notes: what clients noted of it.
    """

    identity: ScanIdentity | None = None
    before: ScanIdentity | None = None
    present: bool = True
    unusable: str = ""
    notes: dict[str, Any] = {}

    @property
    def usable(self) -> bool:
        """Whether it may be handed out, as far as is known."""
        return self.present and not self.unusable

    def holds(self, scan: ScanIdentity) -> bool:
        """Return whether it is there and is a certain scan."""
        return self.present and self.identity is not None and self.identity.same_as(scan)


class LabelRow(FileRow):
    """A label.

    Attributes:
        scan: the scan that it belongs to; None until that was read.
        info: notes: `user`, `ts` (Unix time, s), `name`, `label_info`, and what clients noted.
    """

    scan: ScanIdentity | None = None
    info: dict[str, Any] = {}


class StudiesRecord:
    """The rows of a studies folder, in its database."""

    def __init__(self, folder: Path, *more: Table[Any], read_only: bool) -> None:
        """Open it.

        Args:
            folder: the studies folder.
            more: further tables that are to be in the same file.
            read_only: whether changes stay in this process.

        Raises:
            StorageError: it cannot be opened.
        """
        self.scans: Table[ScanRow] = Table("scans", ScanRow)
        self.labels: Table[LabelRow] = Table("labels", LabelRow)
        tables: list[Table[Any]] = [self.scans, self.labels, *more]
        self.database = Database(folder / FILE, tables, read_only=read_only)

    def label(self, case: str, tag: str) -> LabelRow | None:
        """Return a label's row; None if there is no such label."""
        return self.labels.get(label_key(case, tag))

    def counts(self, case: str) -> bool:
        """Say whether a case has a submitted label that was drawn on its scan."""
        label = self.label(case, FINAL)
        if label is None or label.scan is None:  # taken for this scan's, once it was read
            return label is not None
        row = self.scans.get(case)
        identity = row.identity if row else None
        same = label.scan == identity
        return same or (identity is not None and label.scan.same_as(identity))

    def labels_of(self, case: str) -> dict[str, LabelRow]:
        """Return a case's labels by tag."""
        return self.by_case().get(case, {})

    def by_case(self) -> dict[str, dict[str, LabelRow]]:
        """Return all labels, by case and tag."""
        cases: dict[str, dict[str, LabelRow]] = {}
        for key, row in self.labels.rows.items():
            case, tag = key.split("/", 1)
            cases.setdefault(case, {})[tag] = row
        return cases


def label_key(case: str, tag: str) -> str:
    """Return a label's key; a slash is in no name. MONAI Label's tags are members of an Enum."""
    return f"{case}/{str.__str__(tag)}"


def changed_scans(rows: Mapping[str, ScanRow], content: FolderContent) -> set[str]:
    """Return the cases of which a folder holds something else than the record says."""
    differ = {name for name, row in rows.items() if _scan_differs(name, row, content)}
    return differ | (content.scans.keys() - rows.keys())


def changed_labels(
    known: Mapping[str, LabelRow], listed: Mapping[str, tuple[str, Stamp]], content: FolderContent
) -> set[str]:
    """Return the keys of labels of which a folder holds something else than the record says."""
    differ = {
        key
        for key, place in listed.items()
        if key not in known or (known[key].file, known[key].stamp) != place
    }
    return differ | {key for key in known if key not in listed and not content.hides(key)}


def _scan_differs(name: str, row: ScanRow, content: FolderContent) -> bool:
    here = content.scans.get(name)
    if here is None:
        return row.present and name not in content.waiting
    return not row.present or (row.file, row.stamp) != here
