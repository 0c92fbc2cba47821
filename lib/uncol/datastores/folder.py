"""A studies folder as a datastore: what lies in it is what there is, whoever put it there.

A label belongs to the scan that it was drawn on, not to a file's name. What happens when files
change is said in docs/studies.md and done in `changes.py`.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uncol.data.identity import ScanIdentity, identify, identity_of
from uncol.data.imagefile import doubt, file_extension
from uncol.data.scan import may_pass, read_scan
from uncol.datastores.arrivals import Arrivals, sweep
from uncol.datastores.changes import PREDICTIONS, Changes
from uncol.datastores.earlier import read_index, retire_index
from uncol.datastores.listing import FINAL, HEADERS, PARTIAL, SCAN_FORMATS, Stamp, look_into
from uncol.datastores.pace import pause_after
from uncol.datastores.record import ScanRow
from uncol.datastores.studies import UncolDatastore
from uncol.errors import RequestError, ScanError, StorageError, UncolError
from uncol.storage.files import copy_file, discard, flush_folder
from uncol.storage.plain import check_notes, path_in, plain_name, shown

logger = logging.getLogger(__name__)

ONE_FILE = tuple(one for one in SCAN_FORMATS if one not in HEADERS)
MOST_LISTED = 20  # files that the log and `/info/` list


class StudiesFolder(UncolDatastore):
    """A folder of scans. Its files are looked at now and then, and read once in the background."""

    def __init__(
        self, folder: str, *, patient: str = "", watch: bool = False, **options: Any
    ) -> None:
        """Open a studies folder.

        Args:
            folder: the folder.
            patient: a regular expression; what its first group (or all of it) finds in a case's
                name is the patient's name. Empty: every case is a patient of its own.
            watch: whether to look for changes in a thread of its own.
            options: as for `UncolDatastore`.

        Raises:
            StorageError: the folder cannot be read or written.
        """
        super().__init__(folder, **options)
        self._patient = re.compile(patient) if patient else None
        self._looking = threading.RLock()
        self._arrivals = Arrivals()
        self._left_out: dict[str, str] = {}
        self._told: set[str] = set()
        self._failing: dict[str, str] = {}  # scans that could not be read just now
        self._away = False
        self._changes = Changes(self._root, self._record, self.history, frozen=self._frozen)
        if not self._frozen:
            sweep(self._root)
        self._first_look()
        if watch and not self._frozen:
            threading.Thread(target=self._watch, name="studies", daemon=True).start()

    def status(self) -> dict[str, Any]:
        """Return how many cases there are, labeled ones, labels by tag, and what is left out."""
        unusable = {
            row.file: row.unusable
            for row in self._record.scans.all().values()
            if row.present and row.unusable
        }
        left_out = {**self._left_out, **unusable, **self._failing}
        first = [
            {"file": file, "reason": left_out[file]} for file in sorted(left_out)[:MOST_LISTED]
        ]
        return {**super().status(), "left_out": len(left_out), "left_out_files": first}

    def patient_of(self, image_id: str) -> str:
        """Return a case's patient; the case's own name where that is not known."""
        match = self._patient.search(image_id) if self._patient else None
        return match.group(1 if match.re.groups else 0) if match else image_id

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Return what is noted of a scan, with its `path`; empty if there is none."""
        info = super().get_image_info(image_id)
        if info and not self.counts(image_id) and self.history.of(image_id):
            info["label_set_aside"] = "Its earlier labels do not count; .history has them."
        return info

    def is_readable(self, image_id: str) -> bool:
        """Say whether a case can be handed out; a scan that nobody read yet is read now."""
        row = self._record.scans.get(image_id)
        if row is None or not row.present or row.unusable:
            return False
        if row.identity is None:
            self._check(image_id)
        return image_id not in self._failing and super().is_readable(image_id)

    def refresh(self) -> None:
        """Take up now what was added, changed, or removed by hand.

        Raises:
            StorageError: the folder or its record cannot be read or written.
        """
        self._look(settled=False)
        rows = self._record.scans.all()
        moved = any(not row.present or row.before is not None for row in rows.values())
        for name in self._unread():
            if moved or self._record.label(name, FINAL):
                self._check(name)  # its label may be another one's

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add a scan after checking that it can be read.

        Raises:
            ScanError: it cannot be used.
            RequestError: the id cannot be a file name, or another scan has it.
            StorageError: it could not be written.
        """
        self._refuse_frozen()
        base = os.path.basename(image_filename)
        extension = file_extension(base)
        name = plain_name(image_id or base[: len(base) - len(extension)], "image id")
        if extension not in ONE_FILE:
            raise RequestError(
                f"The scan '{name}' is sent as {shown(extension)}. Send one of "
                f"{', '.join(ONE_FILE)}."
            )
        notes = check_notes(image_info or {})
        identity = identity_of(read_scan(image_filename, case=name))
        target = path_in(self._root, name, extension)
        partial = target.with_name(PARTIAL.format(os.getpid(), threading.get_ident(), extension))
        try:
            copy_file(Path(image_filename), partial)
            with self._looking, self._writing:
                here = self.get_image_uri(name)
                if here and identify(Path(here), name).same_as(identity):
                    return name  # the client has sent the same scan again
                if here or target.exists():
                    raise RequestError(
                        f"There is a case '{name}' already, with another scan. Send this one under "
                        "another id, or remove that case first."
                    )
                os.replace(partial, target)
                flush_folder(target.parent)
                self._add(name, target, identity, notes)
        except OSError as error:
            raise StorageError(
                f"Could not keep the scan '{name}': {error.strerror}. Free some disk space, or "
                "let this user write there, and send it again."
            ) from error
        finally:
            discard(partial)
        return name

    def _add(
        self, name: str, target: Path, identity: ScanIdentity, notes: Mapping[str, Any]
    ) -> None:
        """Note a scan that has just been put in its place."""
        gone = self._record.scans.get(name)
        before = gone.identity or gone.before if gone else None
        notes = {**notes, "ts": int(time.time()), "name": target.name}
        row = ScanRow(file=target.name, identity=identity, before=before, notes=notes)
        row = row.seen(target.name, Stamp.of(target))
        with self._record.database.change() as change:
            change.put(self._record.scans, name, row)
            self._changes.compare(change, name, row)

    def remove_image(self, image_id: str) -> None:
        """Remove a scan and its labels; submitted ones stay in the history.

        A link to a scan elsewhere goes, the scan does not.

        Raises:
            RequestError: there is no such case.
            StorageError: something could not be removed.
        """
        self._refuse_frozen()
        name = plain_name(image_id, "image id")
        with self._looking, self._writing:
            row = self._record.scans.get(name)
            if row is None or not row.present:
                raise RequestError(f"There is no case {shown(image_id)} in the studies folder.")
            for tag in self._record.labels_of(name):
                self.remove_label(name, tag)
            try:
                with self._record.database.change() as change:
                    change.drop(self._record.scans, name)
                    (self._root / row.file).unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(
                    f"Case '{name}' could not be removed: {error.strerror}."
                ) from error

    # --- looking ---

    def _is_usable(self, name: str, row: ScanRow) -> bool:
        if not row.usable or self._away:
            return False
        # one that has changed is compared before its label or prediction can be another scan's
        tags = (FINAL, *PREDICTIONS) if row.before is not None else ()
        return not any(self._record.label(name, tag) for tag in tags)

    def _identity(self, name: str) -> ScanIdentity | None:
        row = self._record.scans.get(name)
        if row is not None and Stamp.of(self._root / row.file) != row.stamp:
            self._look(settled=False)  # it was replaced a moment ago
            row = self._record.scans.get(name)
        if row is not None and row.identity is None:  # the thread has not come so far
            self._check(name)
        return super()._identity(name)

    def _first_look(self) -> None:
        """Take up what is there; a record that was lost is made anew from files and history."""
        with self._usable_folder():
            self._changes.earlier = read_index(self._root)
            self._look(settled=False)
            if not self._frozen:
                self._try_again()
                retire_index(self._root)
        if self._record.database.fresh and not self._frozen:
            self._changes.tell_rebuilt(damaged=self._record.database.set_aside is not None)
        self._changes.earlier = {}

    def _try_again(self) -> None:
        """Forget which scans could not be used before: the reason may be gone."""
        unusable = {n: row for n, row in self._record.scans.all().items() if row.unusable}
        if unusable:
            with self._record.database.change() as change:
                for name, row in unusable.items():
                    change.put(self._record.scans, name, row.model_copy(update={"unusable": ""}))

    def _look(self, *, settled: bool) -> None:
        """Take up what has changed in the folder.

        Args:
            settled: whether a file that changed a moment ago waits for the next look.
        """
        with self._looking, self._usable_folder():
            known = {name: row.file for name, row in self._record.scans.all().items()}
            content = look_into(self._root, known)
            if settled:
                self._arrivals.hold_back(content, self._record.scans.all())
            self._left_out = content.left_out
            self._tell_left_out()
            self._record.database.refresh()
            try:
                self._changes.take_up(content)
                self._away = False
            except StorageError:
                self._away = not self._record.database.is_there
                raise

    def _tell_left_out(self) -> None:
        news = sorted(self._left_out.keys() - self._told)
        self._told.update(news)
        for file in news[:MOST_LISTED]:
            logger.warning("Left out: %s: %s.", file, self._left_out[file])
        if len(news) > MOST_LISTED:
            logger.warning("Left out: %s more files.", len(news) - MOST_LISTED)

    def _check(self, name: str) -> None:
        """Read a scan: which one it is, and whether it can be used."""
        row = self._record.scans.get(name)
        if row is None or not row.present:
            return
        identity, unusable = None, ""
        try:
            identity = self._identified(name, row)
        except ScanError as error:
            unusable = str(error)
            if may_pass(error):
                self._failing[name] = unusable  # it is tried again
                return
        self._failing.pop(name, None)
        if not row.is_as_seen(self._root):
            return  # it is being written, or has gone; the next look sees it
        if unusable:
            logger.warning("Left out: %s", unusable)
        self._keep_verdict(name, row, identity, unusable)

    def _keep_verdict(
        self, name: str, row: ScanRow, identity: ScanIdentity | None, unusable: str
    ) -> None:
        """Note what a scan was found to be, unless it has changed while it was read."""
        with self._writing, self._record.database.change() as change:
            now = change.get(self._record.scans, name)
            if now is None or now.stamp != row.stamp or now.file != row.file:
                return
            now = now.model_copy(update={"identity": identity, "unusable": unusable})
            change.put(self._record.scans, name, now)
            if identity is not None:
                self._changes.compare(change, name, now)

    def _identified(self, name: str, row: ScanRow) -> ScanIdentity:
        path = self._root / row.file
        identity = identify(path, name)
        if unclear := doubt(path):
            logger.warning("Case '%s' (%s): %s", name, row.file, unclear)
        return identity

    def _watch(self) -> None:
        last_error = ""
        while True:
            start = time.monotonic()
            try:
                self._look(settled=True)
                last_error = ""
            except Exception as error:  # whatever it was, the next look may succeed
                if not isinstance(error, UncolError | OSError):
                    logger.exception("The studies folder")
                if str(error) != last_error:
                    logger.error("The studies folder: %s", error)
                last_error = str(error)
            self._read_for(pause_after(time.monotonic() - start))

    def _read_for(self, seconds: float) -> None:
        """Read scans that nobody has read yet; rest as long as each takes, to spare the machine."""
        end = time.monotonic() + seconds
        for name in self._unread():
            start = time.monotonic()
            if start > end:
                return
            try:
                self._check(name)
            except Exception:  # one odd file must not end the thread
                logger.exception("In the studies folder")
            time.sleep(min(time.monotonic() - start, 1.0))
        time.sleep(max(0.0, end - time.monotonic()))

    def _unread(self) -> list[str]:
        """Return the cases to read, those with labels first."""
        labeled = self._record.by_case()
        names = [
            name
            for name, row in self._record.scans.all().items()
            if row.present and row.identity is None and not row.unusable
        ]
        return sorted(names, key=lambda name: (name not in labeled, name))
