"""`uncol benchmark session`: a group labels a pool in rounds; what it gets, and what it costs them.

After each handful of labels the group presses Train. The next cases come with what is served by
then, and are corrected to the true label. Three groups label the same cases: one whose rounds go
on from the version before, with a night of idle training at the end; one whose rounds begin with
random weights; and one with MONAI Label's own training.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from rich.console import Console
from rich.table import Table

from uncol.data.cases import Case
from uncol.data.scan import read_label, read_scan
from uncol.errors import RequestError
from uncol.experiments.comparison import Comparison, Training, header
from uncol.experiments.monai_label.stock import StockTraining
from uncol.experiments.points import Point, dice_curve, drawn, points_like
from uncol.experiments.ssl import judge_labels
from uncol.round_settings import RoundSettings
from uncol.storage.files import append_line
from uncol.tasks.first_label import carried_over
from uncol.tasks.served import ServedStudent
from uncol.training.reporter import Reporter
from uncol.training.round import LEAST_LABELED, train_idle, train_round
from uncol.types import Array
from uncol.versions.store import ModelStore

PLAYERS = ("uncol", "afresh", "monai_label")
TABLE_DIGITS = {"dice": 3, "minutes": 1, "changed": 3}  # with so many digits


@dataclass(frozen=True)
class GroupSession:
    """What is played.

    Attributes:
        comparison: of one method, `uncol`; its budgets are the numbers of labels after which the
            group presses Train.
        night: minutes of idle training after the last round; 0 for none.
    """

    comparison: Comparison
    night: float

    def check(self) -> None:
        """Refuse what cannot be played.

        Raises:
            RequestError: there are too few cases, or the numbers of labels do not rise.
        """
        self.comparison.check()
        budgets = self.comparison.budgets
        if list(budgets) != sorted(set(budgets)) or budgets[-1] < LEAST_LABELED:
            raise RequestError('Name rising numbers of labels, the last 2 or more: "1,2,4,8,16".')

    def line(self, seed: int, group: str) -> Point:
        """Return what tells the lines of a seed and group from all others."""
        training = Training("uncol", self.comparison.budgets[-1], seed)
        rounds = list(self.comparison.budgets)
        return {
            **self.comparison.line(training),
            "rounds": rounds,
            "night": self.night,
            "group": group,
        }


class Player(Protocol):
    """What a group works with."""

    def label_of(self, case: Case, labeled: Sequence[Case]) -> Array | None:
        """Return the label `(I, J, K)` that comes with a case; None if none does."""

    def train(self, labeled: Sequence[Case], others: Sequence[Case]) -> None:
        """Train a round, if there are enough labels for one."""


class UncolGroup:
    """Works with this app."""

    def __init__(self, settings: RoundSettings) -> None:
        """Begin with no version."""
        self.settings = settings
        self._served = ServedStudent(ModelStore(settings.model_dir), settings.labels)

    def label_of(self, case: Case, labeled: Sequence[Case]) -> Array | None:
        """Return the served student's label, before there is one a label carried over."""
        scan = read_scan(case.image, case=case.name)
        if self._served.store.current() is not None:
            return self._served.get(str(self.settings.device)).segment(scan).label
        carried = carried_over(scan, case.name, labeled, self.settings.labels)
        return None if carried is None else carried.label

    def train(self, labeled: Sequence[Case], others: Sequence[Case]) -> None:
        """Train a round."""
        if len(labeled) >= LEAST_LABELED:
            train_round([*labeled, *others], self.settings, Reporter())

    def rest(self, labeled: Sequence[Case], others: Sequence[Case], minutes: float) -> list[str]:
        """Let the served student learn by itself, rounds begun within so many minutes.

        Returns:
            What became of each round, the last one why there was no other.
        """
        end = time.monotonic() + 60 * minutes
        rounds: list[str] = []
        while time.monotonic() < end:
            outcome = train_idle([*labeled, *others], self.settings, Reporter())
            if isinstance(outcome, str):
                return [*rounds, outcome]
            rounds.append(outcome.verdict.reason)
        return rounds


class StockGroup:
    """Works with MONAI Label's own training, which has no unlabeled scans and no first label."""

    def __init__(self, folder: Path, labels: dict[str, int], seed: int) -> None:
        """Begin with no model."""
        self._stock = StockTraining(folder, labels)
        self._seed = seed
        self._trained = False

    def label_of(self, case: Case, labeled: Sequence[Case]) -> Array | None:
        """Return the published model's label."""
        del labeled
        return self._stock.segment(case.image) if self._trained else None

    def train(self, labeled: Sequence[Case], others: Sequence[Case]) -> None:
        """Train a round."""
        del others
        if len(labeled) >= LEAST_LABELED:
            self._stock.train(labeled, seed=self._seed)
            self._trained = True


def play(session: GroupSession, console: Console) -> list[Point]:
    """Play what is not in the file yet, write a line per round, print the table.

    Raises:
        RequestError: there are too few cases, or the numbers of labels do not rise.
    """
    session.check()
    comparison = session.comparison
    console.print(header(comparison))
    points: list[Point] = []
    for seed in comparison.seeds:
        for group in PLAYERS:
            rounds = len(comparison.budgets) + _has_night(session, group)
            if len(_of(session, seed, group)) < rounds:
                with tempfile.TemporaryDirectory() as folder:
                    inside = replace(session, comparison=comparison.in_folder(Path(folder)))
                    for point in _points(inside, seed, group):
                        append_line(comparison.out, json.dumps(point))
            points += _of(session, seed, group)
    console.print(_table(points))
    return points


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw Dice against labeled cases, a line per group."""
    with drawn(path, "labeled cases") as axes:
        for group in PLAYERS:
            rounds = [p for p in points if p["group"] == group and not p["night_after"]]
            counts, mean, spread = dice_curve(rounds, "labeled")
            axes.errorbar(counts, mean, yerr=spread, marker="o", capsize=3, label=group)


def _has_night(session: GroupSession, group: str) -> bool:
    return group == PLAYERS[0] and session.night > 0


def _of(session: GroupSession, seed: int, group: str) -> list[Point]:
    """Return the lines of a seed and group, the last one per round."""
    own = points_like(session.comparison.out, session.line(seed, group))
    return list({(point["labeled"], point["night_after"]): point for point in own}.values())


def _points(session: GroupSession, seed: int, group: str) -> Iterator[Point]:
    comparison = session.comparison
    pool = comparison.pool
    files, test = pool.parts(seed, test=comparison.test)
    files = files[: comparison.train]
    settings = replace(
        comparison.settings, seed=seed, labeled_only=True, pretrained=group != "afresh"
    )
    player: Player = UncolGroup(settings)
    if group == "monai_label":
        player = StockGroup(settings.model_dir / "stock", pool.labels, seed)
    line, before = session.line(seed, group), 0
    labeled: list[Case] = []
    for count in comparison.budgets:
        new = pool.cases(files[before:count], [])
        changed = [_changed(player.label_of(case, labeled), case) for case in new]
        labeled += new
        others = pool.cases([], files[count:])
        start = time.monotonic()
        player.train(labeled, others)
        minutes = (time.monotonic() - start) / 60
        yield {
            **line,
            "labeled": count,
            "night_after": False,
            "changed": float(np.mean(changed)),
            "minutes": round(minutes, 2),
            **_judged(session, player, labeled, test),
        }
        before = count
    if isinstance(player, UncolGroup) and _has_night(session, group):
        rounds = player.rest(labeled, pool.cases([], files[before:]), session.night)
        judged = _judged(session, player, labeled, test)
        yield {**line, "labeled": before, "night_after": True, "idle": rounds, **judged}


def _changed(label: Array | None, case: Case) -> float:
    """Return the voxels that a person changes, per voxel of the true label."""
    truth = read_label(case.label or "").array
    given = np.zeros_like(truth) if label is None else label
    return int((given != truth).sum()) / max(1, int((truth > 0).sum()))


def _judged(
    session: GroupSession, player: Player, labeled: Sequence[Case], test: Sequence[str]
) -> Point:
    pool = session.comparison.pool

    def label_of(file: str) -> Array:
        case = pool.case(file, annotated=False)
        label = player.label_of(case, labeled)
        return np.zeros_like(read_label(pool.truth / file).array) if label is None else label

    judged = judge_labels(pool, label_of, test)
    return {"dice": judged["dice"], "dice_per_case": judged["dice_per_case"]}


def _table(points: Sequence[Point]) -> Table:
    shown = Table(title="As served; mean over seeds")
    for column in ("labels", *(f"{group}: {what}" for what in TABLE_DIGITS for group in PLAYERS)):
        shown.add_column(column, justify="right")
    by_round: dict[tuple[bool, int], list[Point]] = {}
    for point in points:
        by_round.setdefault((point["night_after"], point["labeled"]), []).append(point)
    for night, labeled in sorted(by_round):
        when = f"{labeled}, a night later" if night else str(labeled)
        shown.add_row(when, *_cells(by_round[night, labeled]))
    shown.caption = (
        "minutes: how long Train took; changed: voxels corrected by hand in the cases labeled "
        "since the round before, per voxel of their true label"
    )
    return shown


def _cells(points: Sequence[Point]) -> list[str]:
    return [_mean(points, group, what) for what in TABLE_DIGITS for group in PLAYERS]


def _mean(points: Sequence[Point], group: str, what: str) -> str:
    values = [point[what] for point in points if point["group"] == group and what in point]
    return f"{np.mean(values):.{TABLE_DIGITS[what]}f}" if values else ""
