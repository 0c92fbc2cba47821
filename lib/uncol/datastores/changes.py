"""What happens to a label when its scan, or a file, is not what it was.

- The scan's file was written anew: if it is the same scan, nothing happens. If it is another one,
  the label no longer counts; it stays in the history. Predictions go.
- A scan without a label, of which the history has one (the scan is back, was renamed, or swapped
  its name with another): the label counts again, if one case and one label alone can be meant.
- A label's file was put there, changed, or removed by hand: it counts as it is, from then on it is
  in the history; who submitted it is known where the history knows the file.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from uncol.data.identity import ScanIdentity
from uncol.datastores.earlier import EarlierCase
from uncol.datastores.history import History, Kept, Submission
from uncol.datastores.listing import FINAL, LABELS, PARTIAL, FolderContent, Stamp, files_of
from uncol.datastores.record import (
    LabelRow,
    ScanRow,
    StudiesRecord,
    changed_labels,
    changed_scans,
    label_key,
)
from uncol.datastores.submitted import meant_segments
from uncol.errors import LabelError, StorageError, why
from uncol.storage.database import Change
from uncol.storage.files import copy_file, discard, file_digest, flush_folder, make_folder
from uncol.storage.plain import PlainName, path_in, plain_name

logger = logging.getLogger(__name__)

PREDICTIONS = ("original", "uncertainty")  # tags of what a student made of a scan
MOST_NAMED = 5


class Changes:
    """Brings the record of a studies folder in line with its files.

    Attributes:
        earlier: what an earlier version's index says, while that is taken over.
    """

    def __init__(
        self, root: Path, record: StudiesRecord, history: History, *, frozen: bool
    ) -> None:
        """Make one.

        Args:
            root: the studies folder.
            record: what is known of it.
            history: its labels.
            frozen: whether no file may be changed.
        """
        self._root = root
        self._record = record
        self._history = history
        self._frozen = frozen
        self.earlier: Mapping[str, EarlierCase] = {}
        self._unknown: list[str] = []  # labels of which nobody knows who submitted them
        self._told: set[str] = set()

    def take_up(self, content: FolderContent, *, labels_only: bool = False) -> None:
        """Take up what a folder holds now.

        Args:
            content: what it holds.
            labels_only: whether its scans are somebody else's matter.

        Raises:
            StorageError: the record cannot be written; nothing has changed.
        """
        rows = self._record.scans.all()
        scans = set() if labels_only else changed_scans(rows, content)
        listed = {label_key(*key): file for key, file in content.labels.items()}
        labels = changed_labels(self._record.labels.all(), listed, content)
        if not scans and not labels:
            return
        with self._record.database.change() as change:
            for name in sorted(scans):
                self._take_scan(change, name, content)
            for key in sorted(labels):
                self._take_label(change, key, listed.get(key))
            if not labels_only:
                self.settle(change, {key.split("/", 1)[0] for key in labels} | rows.keys())

    def settle(self, change: Change, names: Iterable[str]) -> None:
        """Give scans that were read the label that was drawn on them, where they have none."""
        homeless = {}
        for name in names:
            row = change.get(self._record.scans, name)
            if row is None or row.identity is None or not row.present or row.before is not None:
                continue
            self._bind(change, name, row.identity)
            if change.get(self._record.labels, label_key(name, FINAL)) is None:
                homeless[name] = row.identity
        for name, identity in homeless.items():
            labels = self._history.latest_of(identity)
            label = labels.get(name)
            if label is None:
                label = self._only_one(change, name, identity, labels)
            if label is not None:
                self._restore(change, name, identity, label)

    def compare(self, change: Change, name: str, row: ScanRow) -> None:
        """Decide on a case's labels, now that its scan was read."""
        assert row.identity is not None
        if row.before is not None and not row.before.same_as(row.identity):
            self._drop_predictions(change, name)
        # a label that came before the file changed was drawn on what the file held then
        self._bind(change, name, row.before or row.identity)
        change.put(self._record.scans, name, row.model_copy(update={"before": None}))
        final = change.get(self._record.labels, label_key(name, FINAL))
        if final is not None and final.scan and not final.scan.same_as(row.identity):
            self._set_aside(change, name, final)
        self.settle(change, [name])

    def tell_rebuilt(self, *, damaged: bool) -> None:
        """Say what could not be recovered of a record that was made anew."""
        labeled = [key for key in self._record.labels.rows if key.endswith(f"/{FINAL}")]
        if damaged or labeled:
            logger.warning(
                "The record of %s was made anew from files and history: %s submitted labels.",
                self._root,
                len(labeled),
            )
        if self._unknown:
            rest = len(self._unknown) - MOST_NAMED
            logger.warning(
                "Who submitted them is not known of the labels of %s%s.",
                ", ".join(self._unknown[:MOST_NAMED]),
                f" and {rest} more" if rest > 0 else "",
            )

    # --- scans ---

    def _take_scan(self, change: Change, name: str, content: FolderContent) -> None:
        row = change.get(self._record.scans, name)
        here = content.scans.get(name)
        if here is None:
            if row is not None and not os.path.exists(self._root / row.file):
                change.put(self._record.scans, name, row.model_copy(update={"present": False}))
            return
        file, stamp = here
        if row is None:
            notes = {"ts": int(time.time()), "name": os.path.basename(file)}
            notes |= self.earlier[name].info if name in self.earlier else {}
            row = ScanRow(file=file, notes=notes).seen(file, stamp)
        elif (row.file, row.stamp) == here:
            row = row.model_copy(update={"present": True})
        else:
            before = row.identity or row.before
            new = {"present": True, "identity": None, "before": before, "unusable": ""}
            row = row.seen(file, stamp).model_copy(update=new)
        change.put(self._record.scans, name, row)

    def _drop_predictions(self, change: Change, name: str) -> None:
        """Remove what was predicted on another scan."""
        for tag in PREDICTIONS:
            key = label_key(name, tag)
            label = change.get(self._record.labels, key)
            if label is not None:
                change.drop(self._record.labels, key)
                if not self._frozen:
                    (self._root / label.file).unlink(missing_ok=True)

    # --- labels ---

    def _take_label(self, change: Change, key: str, listed: tuple[str, Stamp] | None) -> None:
        row = change.get(self._record.labels, key)
        file = listed[0] if listed else row.file if row else ""
        path = self._root / file
        try:
            stamp = Stamp.of(path)  # now: what was listed may be older than the record
        except OSError:
            self._gone(change, key, row)
            return
        if row is None or (row.file, row.stamp) != (file, stamp):
            self._take_file(change, key, file, stamp)

    def _take_file(self, change: Change, key: str, file: str, stamp: Stamp) -> None:
        path = self._root / file
        case, tag = (plain_name(one, "name") for one in key.split("/", 1))
        info = {"ts": stamp.mtime_ns // 10**9, "name": path.name}
        new = LabelRow(file=file, info=info)
        if tag == FINAL:
            submission = self._submission(change, case, path)
            if submission is None:
                return
            new = LabelRow(file=file, scan=submission.scan, info=submission.info or info)
        elif case in self.earlier:
            new = LabelRow(file=file, info=self.earlier[case].info_of(tag, path.name) or info)
        change.put(self._record.labels, key, new.seen(file, stamp))

    def _gone(self, change: Change, key: str, row: LabelRow | None) -> None:
        """Forget a label that somebody removed by hand; it is not to come back by itself."""
        change.drop(self._record.labels, key)
        case, tag = (plain_name(one, "name") for one in key.split("/", 1))
        if tag == FINAL and row is not None and not self._frozen:
            self._history.remove(case, row.scan)

    def _submission(self, change: Change, case: PlainName, path: Path) -> Submission | None:
        """Return who submitted a label file, when, and so on; from now on it is in the history.

        None if it cannot be a label: it is told, and left alone.
        """
        try:
            digest = file_digest(path)
            info = self._earlier_info(case, path)
        except (OSError, LabelError) as error:
            self._tell(str(path), f"The label {path} does not count: {why(error)}.")
            return None
        known = self._history.submission(case, digest)
        if known is None and not info:
            known = self._renamed_along(change, digest)
        if known is None:
            known = Submission(digest=digest, info=info)
            if not info:
                self._unknown.append(case)
        if not self._frozen and not self._history.ends_with(case, digest):
            self._history.add(case, path, path.name[len(case) :], known)
        return known

    def _renamed_along(self, change: Change, digest: str) -> Submission | None:
        """Return the label of a case that is gone: scan and label may have been renamed by hand."""
        other = self._history.elsewhere(digest)
        row = change.get(self._record.scans, other.case) if other else None
        return other.submission if other and not (row and row.present) else None

    def _earlier_info(self, case: PlainName, path: Path) -> dict[str, object]:
        """Return what an earlier version's index says of a submitted label.

        Raises:
            LabelError: it says that the values have names, and not which.
        """
        earlier = self.earlier.get(case)
        info = earlier.info_of(FINAL, path.name) if earlier else {}
        listed = info.get("label_info")
        return {**info, "label_info": meant_segments(path, listed, case)} if listed else info

    def _bind(self, change: Change, name: str, identity: ScanIdentity) -> None:
        """Note the scan of labels of which nobody knew it."""
        for tag in (FINAL, *PREDICTIONS):
            key = label_key(name, tag)
            label = change.get(self._record.labels, key)
            if label is None or label.scan is not None:
                continue
            change.put(self._record.labels, key, label.model_copy(update={"scan": identity}))
            if tag == FINAL and not self._frozen:
                path, case = self._root / label.file, plain_name(name, "image id")
                noted = Submission(digest=file_digest(path), scan=identity, info=label.info)
                self._history.add(case, path, path.name[len(name) :], noted)

    def _set_aside(self, change: Change, name: str, label: LabelRow) -> None:
        """Take away a label of another scan; the history has it."""
        logger.warning(
            "The scan of case '%s' is another one than its label was drawn on. The label does not "
            "count any more; it is kept in .history/%s.",
            name,
            name,
        )
        change.drop(self._record.labels, label_key(name, FINAL))
        if self._frozen:
            return
        case = plain_name(name, "image id")
        for path in files_of(self._root / LABELS / FINAL, name):
            digest = file_digest(path)
            if not self._history.knows(case, digest):
                noted = Submission(digest=digest, scan=label.scan, info=label.info)
                self._history.add(case, path, path.name[len(name) :], noted)
            path.unlink()

    def _only_one(
        self, change: Change, name: str, identity: ScanIdentity, labels: Mapping[str, Kept]
    ) -> Kept | None:
        """Return the label of a scan under another name, if there is no doubt about it."""
        sources = [
            label for case, label in labels.items() if not self._in_use(change, case, identity)
        ]
        if len(sources) == 1 and not self._rivals(change, name, identity):
            return sources[0]
        if sources:
            self._tell(
                name,
                f"The scan of case '{name}' has had a label under other names "
                f"({', '.join(sorted(labels))}), and it is not clear which one it is to have.",
            )
        return None

    def _rivals(self, change: Change, name: str, identity: ScanIdentity) -> list[str]:
        """Return other cases with the same scan and without a label."""
        rows = self._record.scans.rows.items()
        twins = [other for other, row in rows if other != name and row.holds(identity)]
        labels = self._record.labels
        return [one for one in twins if change.get(labels, label_key(one, FINAL)) is None]

    def _in_use(self, change: Change, case: str, scan: ScanIdentity) -> bool:
        """Say whether a case has a scan and its label."""
        row = change.get(self._record.scans, case)
        label = change.get(self._record.labels, label_key(case, FINAL))
        if row is None or label is None or not row.holds(scan):
            return False
        return label.scan is None or label.scan.same_as(scan)

    def _restore(self, change: Change, name: str, identity: ScanIdentity, kept: Kept) -> None:
        """Let a label of the history count."""
        case = plain_name(name, "image id")
        extension = "." + kept.path.name.split(".", 2)[2]
        target = path_in(self._root / LABELS / FINAL, case, extension)
        if self._frozen or os.path.lexists(target):  # somebody has put one there: the next look
            return
        how = "is back" if kept.case == name else f"was called '{kept.case}'"
        logger.warning("The scan of case '%s' %s: its label counts again.", name, how)
        partial = target.with_name(PARTIAL.format(os.getpid(), threading.get_ident(), extension))
        try:
            make_folder(target.parent)
            copy_file(kept.path, partial)
            if kept.case != name:
                noted = kept.submission.model_copy(update={"scan": identity})
                self._history.add(case, kept.path, extension, noted)
            os.replace(partial, target)
            flush_folder(target.parent)
        except (OSError, StorageError) as error:
            self._tell(f"{name} again", f"The label of '{name}' cannot be put back: {why(error)}.")
            return
        finally:
            discard(partial)
        file = f"{LABELS}/{FINAL}/{target.name}"
        row = LabelRow(file=file, scan=identity, info=kept.info).seen(file, Stamp.of(target))
        change.put(self._record.labels, label_key(name, FINAL), row)

    def _tell(self, about: str, text: str) -> None:
        if about not in self._told:
            self._told.add(about)
            logger.warning("%s", text)
