"""`uncol benchmark rounds`: rounds of annotation, one of them with wrong labels.

Asks what a hospital asks: can a bad round make the served model worse, and is the accuracy on the
screen true? MONAI Label's own training goes through the same rounds.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from uncol.calibration.accuracy import shown_accuracy
from uncol.data.cases import Case
from uncol.data.scan import read_label, write_volume
from uncol.errors import RequestError
from uncol.experiments.monai_label.stock import StockTraining
from uncol.experiments.pool import LabeledPool
from uncol.round_settings import RoundSettings
from uncol.storage.files import append_line
from uncol.training.reporter import Reporter
from uncol.training.round import train_round
from uncol.types import Array
from uncol.versions.gate import PerCase
from uncol.versions.loaded import judge, load_version
from uncol.versions.metrics import dice_per_label, mean_of
from uncol.versions.store import ModelStore

WRONG_SHARE = 0.3


@dataclass(frozen=True)
class Rounds:
    """What is played.

    Attributes:
        pool: labeled scans.
        rounds: how many.
        step: newly labeled cases per round.
        wrong_round: the round, from 1, in which 30 % of the new labels are wrong; 0 for none.
        unlabeled: further cases of the pool, never labeled.
        test: truly unseen cases that judge.
        seed: draws cases and wrong labels, and seeds the trainings.
        settings: how a round trains; model folder and seed are the benchmark's own.
        out: JSON lines file, one line per round.
    """

    pool: LabeledPool
    rounds: int
    step: int
    wrong_round: int
    unlabeled: int
    test: int
    seed: int
    settings: RoundSettings
    out: Path


@dataclass(frozen=True)
class Round:
    """A line of the output.

    Attributes:
        seed: of the run.
        round: its number, from 1.
        labeled: number of labels by then, including wrong ones.
        wrong: number of wrong labels by then.
        shown: accuracy on the screen, a mean Dice; None before any is measured.
        dice: mean Dice of the served version on truly unseen cases.
        candidate: the same of the new version, served or not.
        published: whether the new version is served.
        stock_shown: as `shown`, for MONAI Label's own training.
        stock_dice: as `dice`, for MONAI Label's own training.
    """

    seed: int
    round: int
    labeled: int
    wrong: int
    shown: float | None
    dice: float
    candidate: float
    published: bool
    stock_shown: float
    stock_dice: float


def play(setup: Rounds, console: Console) -> list[Round]:
    """Play all rounds, write a line after each, print the table.

    Raises:
        RequestError: there are too few cases.
    """
    needed = setup.test + setup.rounds * setup.step + setup.unlabeled
    if len(setup.pool.files) < needed:
        raise RequestError(f"{needed} labeled scans are needed, there are {len(setup.pool.files)}.")
    files = setup.pool.shuffled(setup.seed)
    test = [setup.pool.case(file, annotated=True) for file in files[: setup.test]]
    rest = files[setup.test : needed]
    played = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = replace(setup.settings, model_dir=folder / "model", seed=setup.seed)
        store = ModelStore(settings.model_dir)
        stock = StockTraining(folder / "stock", setup.pool.labels)
        wrong = _wrong_ones(setup, rest)
        for number in range(1, setup.rounds + 1):
            count = number * setup.step
            labeled = [
                _annotated(setup, file, folder, wrong=file in wrong) for file in rest[:count]
            ]
            others = [setup.pool.case(file, annotated=False) for file in rest[count:]]
            console.print(f"Round {number}: {count} labeled, {len(wrong & {*rest[:count]})} wrong")
            outcome = train_round([*labeled, *others], settings, Reporter())
            console.print(outcome.verdict.reason)
            shown = shown_accuracy(store)
            played.append(
                Round(
                    seed=setup.seed,
                    round=number,
                    labeled=count,
                    wrong=len(wrong & {*rest[:count]}),
                    shown=shown.dice if shown else None,
                    dice=_unseen(store, outcome.served, test, settings),
                    candidate=_unseen(store, outcome.version, test, settings),
                    published=outcome.verdict.published,
                    stock_shown=stock.train(labeled, seed=setup.seed),
                    stock_dice=_mean({c.name: _stock_dice(stock, c, setup) for c in test}),
                )
            )
            append_line(setup.out, json.dumps(asdict(played[-1])))
    console.print(table(played))
    return played


def table(rounds: Sequence[Round]) -> Table:
    """Return the rounds, with the largest fall and the mean error of the shown accuracy."""
    shown_rounds = Table("round", "labels (wrong)", "shown", "unseen", "candidate", "published")
    for title in ("stock: shown", "unseen"):
        shown_rounds.add_column(title)
    for one in rounds:
        shown = "" if one.shown is None else f"{one.shown:.3f}"
        shown_rounds.add_row(
            str(one.round),
            f"{one.labeled} ({one.wrong})",
            shown,
            f"{one.dice:.3f}",
            f"{one.candidate:.3f}",
            "yes" if one.published else "no",
            f"{one.stock_shown:.3f}",
            f"{one.stock_dice:.3f}",
        )
    ours, theirs = [one.dice for one in rounds], [one.stock_dice for one in rounds]
    gaps = [abs(one.shown - one.dice) for one in rounds if one.shown is not None]
    stock_gaps = [abs(one.stock_shown - one.stock_dice) for one in rounds]
    shown_rounds.caption = (
        f"largest fall below the best before: {fall(ours):.4f}, stock {fall(theirs):.4f}; "
        f"mean |shown - unseen|: {np.mean(gaps):.4f}, stock {np.mean(stock_gaps):.4f}"
    )
    return shown_rounds


def fall(values: Sequence[float]) -> float:
    """Return the largest drop of a value below the best before it."""
    return float(max(np.maximum.accumulate(values) - np.array(values)))


def spoil(label: Array, labels: Sequence[int], generator: np.random.Generator) -> Array:
    """Return a wrong label, as a careless annotator might draw it.

    At random, two labels are confused, everything is shifted by a fifth of its size, or everything
    is far too thick.
    """
    kind = int(generator.integers(3 if len(labels) > 1 else 2))
    where = np.argwhere(label > 0)
    if kind == 0:
        shift = np.maximum(2, np.ptp(where, axis=0) // 5)
        moved: Array = np.roll(label, shift.tolist(), axis=(0, 1, 2))
        return moved
    if kind == 1:
        thick = label.copy()
        for axis in range(3):
            for step in (-3, 3):
                thick = np.where(thick > 0, thick, np.roll(label, step, axis=axis))
        return thick
    swapped = label.copy()
    for value, other in zip(labels, [*labels[1:], labels[0]], strict=True):
        swapped[label == value] = other
    return swapped


def _wrong_ones(setup: Rounds, rest: Sequence[str]) -> set[str]:
    if setup.wrong_round == 0:
        return set()
    new = rest[(setup.wrong_round - 1) * setup.step : setup.wrong_round * setup.step]
    generator = np.random.default_rng(setup.seed)
    return set(generator.choice(new, round(WRONG_SHARE * len(new)), replace=False).tolist())


def _annotated(setup: Rounds, file: str, folder: Path, *, wrong: bool) -> Case:
    case = setup.pool.case(file, annotated=True)
    if not wrong or case.label is None:
        return case
    path = folder / f"wrong_{case.name}.nii.gz"
    if not path.exists():
        label = read_label(case.label)
        generator = np.random.default_rng([setup.seed, *file.encode()])
        spoiled = spoil(label.array, list(setup.pool.labels.values()), generator)
        write_volume(path, spoiled.astype(np.uint8), label.grid)
    return replace(case, label=path)


def _unseen(
    store: ModelStore, version: int, cases: Sequence[Case], settings: RoundSettings
) -> float:
    return _mean(judge(load_version(store, version, settings.device), cases, released=False))


def _stock_dice(stock: StockTraining, case: Case, setup: Rounds) -> dict[str, float]:
    truth = read_label(case.label or "").array
    return dice_per_label(stock.segment(case.image), truth, setup.pool.labels)


def _mean(dice: PerCase) -> float:
    return float(np.mean([mean_of(labels) for labels in dice.values()]))
