"""The whole demo: pool, server, session, training, figures, picture page."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from uncol.data.imagefile import file_extension
from uncol.demo.bar import progress_bar
from uncol.demo.page import write_page
from uncol.demo.pool import make_pool
from uncol.demo.server import running_server
from uncol.demo.session import Annotated, Annotator, DemoResult
from uncol.errors import RequestError

FIRST, SECOND, JUDGED = 6, 2, 10  # cases annotated before and after training; cases judged on
PROMPTED = 4  # judged cases on which the foundation model is measured, too, for comparison
POOL = 30
MOST = 48  # most cases taken from a folder of the user's
PORT = 8000  # where OHIF's panel looks by default
DEMO_SEED = 0


@dataclass(frozen=True)
class DemoPool:
    """Where the demo's scans and their truth lie.

    Attributes:
        studies: the studies folder, the demo's own copy.
        truth: true labels, same names.
        labels: the `labels` setting.
    """

    studies: Path
    truth: Path
    labels: str


def run_demo(studies: Path | None, labels: str | None, *, once: bool, out: Path) -> None:
    """Play a session against a real server and report.

    Args:
        studies: a folder with `images/` and `labels/` of the same names, or None for the built-in
            pool.
        labels: the labels of that folder, `a,b` for values 1, 2.
        once: stop the server at the end instead of leaving it up.
        out: the demo's folder; emptied at the start.

    Raises:
        UncolError: something did not work; the message says what.
    """
    console = Console()
    start = time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with progress_bar(console) as progress:
        source = _source(studies, labels, out, progress)
        starting = progress.add_task("starting the server", total=None)
        with running_server(
            source.studies, model_dir=out / "model", labels=source.labels, port=_port()
        ) as url:
            progress.update(starting, total=1, completed=1)
            names = {n: v for v, n in enumerate(source.labels.split(","), start=1)}
            annotator = Annotator(url, source.studies, source.truth, names)
            before = _annotate(annotator, FIRST, "annotating with the foundation model", progress)
            stats = _train(annotator, progress)
            after = _annotate(annotator, SECOND, "annotating with the new model", progress)
            results = _judge(annotator, progress)
            prompted = _prompt(annotator, [r.case for r in results[:PROMPTED]], progress)
            progress.stop()
            _report(console, names, (before, after), (prompted, results), stats)
            minutes = (time.monotonic() - start) / 60
            picture = write_page(out / "page.html", results, names, _sentence(results, minutes))
            console.print(f"Pictures: {out / 'page.html'} and {picture}  ({minutes:.1f} minutes)")
            if not once:
                _stay(console, url)


def _source(studies: Path | None, labels: str | None, out: Path, progress: Progress) -> DemoPool:
    if studies is None:
        task = progress.add_task("making a pool from the MNI152 template", total=None)
        made = make_pool(out / "studies", out / "truth", cases=POOL, seed=DEMO_SEED)
        progress.update(task, total=1, completed=1)
        return DemoPool(out / "studies", out / "truth", made)
    images, truth = studies / "images", studies / "labels"
    if not labels or not images.is_dir() or not truth.is_dir():
        raise RequestError(
            f"{studies} must hold the folders images/ and labels/ with the same file names, and "
            'LABELS must name their values: make demo STUDIES=DIR LABELS="a,b".'
        )
    (out / "studies").mkdir()
    names = sorted(
        p.name for p in images.iterdir() if file_extension(p) and (truth / p.name).exists()
    )
    needed = FIRST + SECOND + JUDGED
    if len(names) < needed:
        raise RequestError(f"{studies} has {len(names)} labeled scans; the demo needs {needed}.")
    for name in names[:MOST]:
        shutil.copyfile(images / name, out / "studies" / name)
    return DemoPool(out / "studies", truth, labels)


def _annotate(annotator: Annotator, count: int, text: str, progress: Progress) -> list[Annotated]:
    return [annotator.annotate_next() for _ in progress.track(range(count), description=text)]


def _train(annotator: Annotator, progress: Progress) -> Mapping[str, Any]:
    task = progress.add_task("training", total=None)

    def show(stats: Mapping[str, Any]) -> None:
        _show_training(progress, task, stats)

    stats = annotator.train(show)
    progress.update(task, description="training: done", completed=stats["total_epochs"])
    return stats


def _show_training(progress: Progress, task: TaskID, stats: Mapping[str, Any]) -> None:
    total = stats.get("total_epochs", 1)
    progress.update(
        task,
        description=f"training: {stats.get('phase', 'starting')}",
        total=total if total > 1 else None,
        completed=stats.get("epoch", 0),
    )


def _judge(annotator: Annotator, progress: Progress) -> list[DemoResult]:
    cases = annotator.unlabeled()[:JUDGED]
    text = "judging on cases never labeled"
    return [annotator.result(case) for case in progress.track(cases, description=text)]


def _prompt(
    annotator: Annotator, cases: Sequence[str], progress: Progress
) -> list[dict[str, float]]:
    text = "the foundation model on some of them"
    return [annotator.prompted_dice(case) for case in progress.track(cases, description=text)]


def _report(
    console: Console,
    labels: Mapping[str, int],
    annotated: tuple[Sequence[Annotated], Sequence[Annotated]],
    judged: tuple[Sequence[Mapping[str, float]], Sequence[DemoResult]],
    stats: Mapping[str, Any],
) -> None:
    before, after = annotated
    prompted, results = judged
    rows = {
        "annotated before training: boxes": [a.dice for a in before],
        "annotated after training: student": [a.dice for a in after],
        "never labeled, before: boxes": prompted,
        "never labeled, after: student, same": [r.dice for r in results[: len(prompted)]],
        "never labeled, after: student, all": [r.dice for r in results],
    }
    console.print(_dice_table(rows, labels))
    changed = [np.mean([a.corrected for a in part]) for part in (before, after)]
    trust = stats.get("trust", {})
    console.print(
        f"Voxels to correct per case: {changed[0]:.0f} before training, {changed[1]:.0f} after. "
        f"Last step: specialist trusted on {trust.get('trust_specialist', 0):.0%} of the "
        f"unlabeled voxels, generalist on {trust.get('trust_generalist', 0):.0%}."
    )


def _dice_table(
    rows: Mapping[str, Sequence[Mapping[str, float]]], labels: Mapping[str, int]
) -> Table:
    table = Table(title="Mean Dice against the true labels")
    table.add_column("")
    for name in (*labels, "mean", "cases"):
        table.add_column(name, justify="right")
    for title, dices in rows.items():
        means = [float(np.nanmean([dice[name] for dice in dices])) for name in labels]
        shown = [f"{value:.3f}" for value in (*means, float(np.mean(means)))]
        table.add_row(title, *shown, str(len(dices)))
    return table


def _sentence(results: Sequence[DemoResult], minutes: float) -> str:
    mean = float(np.mean([np.nanmean(list(result.dice.values())) for result in results]))
    return (
        f"Mean Dice {mean:.3f} on {len(results)} cases never labeled, after {FIRST} labels and one "
        f"training; the whole demo took {minutes:.1f} minutes."
    )


def _stay(console: Console, url: str) -> None:
    console.print(
        f"\nThe server is up at {url}. In 3D Slicer: module MONAILabel, this address, green "
        "arrows, Next Sample. OHIF needs scans in a DICOMweb server, see README. Ctrl-C ends it."
    )
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("Stopping.")


def _port() -> int | None:
    """Return the usual port if it is free, else None for any."""
    import socket  # noqa: PLC0415 - only here

    with socket.socket() as probe:
        return PORT if probe.connect_ex(("127.0.0.1", PORT)) else None
