"""Power cuts while labels are kept: what was not flushed is lost, what was answered is not.

A child plays the studies folder's operations and dies at one of its file operations. What a disk
may lose then is taken away: half of each file that was not flushed, and renames, new names and
removals in folders that were not flushed. SQLite flushes by itself (`synchronous=FULL`).
`make faults N=200` cuts that often; by default it is a few.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from studies_folder import open_folder, write

from uncol.data.scan import read_label
from uncol.storage.files import file_digest

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

CUTS = max(50, int(os.environ.get("UNCOL_FAULTS", "0")))
FORK = multiprocessing.get_context("fork")
CUT = 7  # exit code


class Disk:
    """Counts file operations below a folder, and loses what was not flushed at one of them."""

    def __init__(self, root: Path, cut_at: int) -> None:
        self.root = root
        self.left = cut_at
        self.flushed = {path.stat().st_ino for path in root.rglob("*") if path.is_file()}
        self.undo: list[tuple[Path, Callable[[], object]]] = []
        self.real = {name: getattr(os, name) for name in ("fsync", "replace", "link", "unlink")}
        os.fsync, os.replace = self.fsync, self.replace
        os.link, os.unlink = self.link, self.unlink

    def step(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.lose()
            os._exit(CUT)

    def lose(self) -> None:
        for _, back in reversed(self.undo):
            back()
        for path in self.root.rglob("*"):
            if not path.is_file() or path.name.startswith("uncol.sqlite"):
                continue
            if path.stat().st_ino not in self.flushed:
                with path.open("rb+") as stream:
                    stream.truncate(path.stat().st_size // 2)

    def fsync(self, descriptor: int) -> None:
        self.step()
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.real["fsync"](descriptor)
        if path.is_dir():
            self.undo = [(folder, back) for folder, back in self.undo if folder != path]
        else:
            self.flushed.add(path.stat().st_ino)

    def replace(self, source: os.PathLike[str], target: os.PathLike[str]) -> None:
        self.step()
        source, target = Path(source), Path(target)
        before = self.saved(target)

        def back() -> None:
            if target.exists():
                self.real["replace"](target, source)
            self.restore(target, before)

        self.real["replace"](source, target)
        self.undo.append((target.parent, back))

    def link(self, source: os.PathLike[str], target: os.PathLike[str]) -> None:
        self.step()
        self.real["link"](source, target)
        self.undo.append(
            (Path(target).parent, lambda: Path(target).exists() and self.real["unlink"](target))
        )

    def unlink(self, path: os.PathLike[str], **options: object) -> None:
        self.step()
        path = Path(path)
        before = self.saved(path)
        self.real["unlink"](path, **options)
        self.undo.append((path.parent, lambda: self.restore(path, before)))

    def saved(self, path: Path) -> Path | None:
        """Keep a file's inode aside, outside of the folder."""
        if not path.exists():
            return None
        aside = self.root.parent / f"aside-{len(list(self.root.parent.glob('aside-*')))}"
        self.real["link"](path, aside)
        return aside

    def restore(self, path: Path, aside: Path | None) -> None:
        if aside is not None and not path.exists():
            self.real["link"](aside, path)


def drawn(size: int) -> np.ndarray:
    array = np.zeros((6, 5, 4), np.uint8)
    array[:size] = 1
    return array


class Story:
    """A studies folder with one label that is overwritten and removed until the power fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "studies"
        self.root.mkdir()
        rng = np.random.default_rng(0)
        for name in ("one", "two"):
            write(self.root / f"{name}.nii.gz", rng.normal(size=(6, 5, 4)).astype(np.float32))
        self.files = [write(folder / f"l{size}.nii.gz", drawn(size)) for size in (1, 2, 3)]
        self.answered = folder / "answered"
        self.now = 0
        self.submit(0)

    def submit(self, number: int) -> None:
        store = open_folder(self.root)
        store.save_label("one", self.files[number], "final", {"user": f"user{number}"})
        self.answered.touch()

    def remove_and_submit(self, number: int) -> None:
        open_folder(self.root).remove_label("one", "final")
        self.submit(number)

    def play(self, work: Callable[[int], None], number: int, at: int) -> bool:
        """Do something in a child whose power fails; return whether it ended before that."""

        def child() -> None:
            disk = Disk(self.root, at)
            work(number)
            disk.lose()  # right after the answer
            os._exit(0)

        process = FORK.Process(target=child)
        process.start()
        process.join()
        assert process.exitcode in (0, CUT)
        for aside in self.folder.glob("aside-*"):
            aside.unlink()
        return process.exitcode == 0

    def history(self) -> set[str]:
        return {file_digest(one.path) for one in open_folder(self.root).history.of("one")}

    def check(self, number: int, *, may_be_gone: bool) -> None:
        """The folder opens, and the label is the one that was answered, or the one before."""
        store = open_folder(self.root)
        assert store.list_images() == ["one", "two"]
        path = store.get_label_uri("one", "final")
        if not path:  # the removal is done, the submission is not
            assert may_be_gone
            assert not self.answered.exists()
            self.submit(self.now)
            return
        array = read_label(path).array
        (held,) = [n for n in range(len(self.files)) if (array == drawn(n + 1)).all()]
        assert store.get_label_info("one", "final")["user"] == f"user{held}"
        assert held == number or (not self.answered.exists() and held == self.now)
        self.now = held


def test_what_was_answered_survives_a_power_cut_and_what_was_not_leaves_the_label_before(
    tmp_path: Path,
) -> None:
    story = Story(tmp_path)
    cuts, at, turn = 0, 1, 0
    while cuts < CUTS:
        number, removes = (story.now + 1) % len(story.files), turn % 5 == 4
        story.answered.unlink(missing_ok=True)
        kept = story.history()
        ended = story.play(story.remove_and_submit if removes else story.submit, number, at)
        turn, cuts, at = turn + 1, cuts + (not ended), 1 if ended else at + 1
        if turn % 3 == 0:  # and the record is lost, too
            for file in story.root.glob("uncol.sqlite*"):
                file.unlink()
        story.check(number, may_be_gone=removes)
        assert kept <= story.history()
