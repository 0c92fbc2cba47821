"""`uncol simulate`: replay annotation on a labeled pool, one strategy after another.

Every point is a round: the app trains on what is labeled by then, the new student scores the rest
(uncalibrated, which changes no order that matters here), and the strategy chooses among them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from uncol.data.scan import read_scan
from uncol.demo.bar import progress_bar
from uncol.errors import RequestError
from uncol.experiments.points import Point, dice_curve, drawn, gap_text, read_points
from uncol.experiments.pool import LabeledPool
from uncol.round_settings import RoundSettings
from uncol.selection.scores import Score, embeddings_of
from uncol.selection.strategies import STRATEGIES, Candidates
from uncol.selection.survey import Found, embed, score_of
from uncol.storage.files import append_line
from uncol.training.fit import fit
from uncol.training.reporter import Reporter
from uncol.versions.loaded import LoadedStudent, judge
from uncol.versions.store import ModelStore

BASELINE_STRATEGY = "foreground_random"  # hardly any strategy beats it, as nnActive found


@dataclass(frozen=True)
class Simulation:
    """What is replayed.

    Attributes:
        pool: labeled scans.
        strategies: names, see `STRATEGIES`.
        start: cases labeled at random before the first choice.
        step: cases chosen at a time.
        stop: labeled cases at which it ends.
        seeds: each draws its own test cases, first cases and network.
        test: cases that judge; they never train.
        cases: most cases of the pool that take part, besides test cases.
        settings: how a round trains; model folder and seed are the simulation's own.
        out: JSON lines file; what it holds is not computed again.
    """

    pool: LabeledPool
    strategies: tuple[str, ...]
    start: int
    step: int
    stop: int
    seeds: tuple[int, ...]
    test: int
    cases: int
    settings: RoundSettings
    out: Path

    def check(self) -> None:
        """Refuse what cannot be replayed.

        Raises:
            RequestError: a strategy is unknown, or there are too few cases.
        """
        unknown = [name for name in self.strategies if name not in STRATEGIES]
        if unknown:
            raise RequestError(f"No strategy '{unknown[0]}'; choose of {', '.join(STRATEGIES)}.")
        if not 2 <= self.start <= self.stop or self.step < 1:
            raise RequestError("--start must be 2 or more, --stop no less, --step 1 or more.")
        if len(self.pool.files) < self.stop + self.test:
            raise RequestError(
                f"{self.pool.images} holds {len(self.pool.files)} labeled scans; {self.stop} to "
                f"label and {self.test} to judge are needed."
            )
        if self.cases < self.stop:
            raise RequestError(f"--cases {self.cases} leaves too few to label {self.stop}.")


RoundResult = tuple[float, dict[str, Score]]


def simulate(simulation: Simulation, console: Console) -> list[Point]:
    """Replay, write lines and plot, print a table; returns all points.

    Raises:
        RequestError: it cannot be replayed.
    """
    simulation.check()
    counts = list(range(simulation.start, simulation.stop + 1, simulation.step))
    done = read_points(simulation.out)
    with progress_bar(console) as progress:
        total = len(simulation.strategies) * len(simulation.seeds) * len(counts)
        task = progress.add_task("simulating", total=total)
        for seed in simulation.seeds:
            with tempfile.TemporaryDirectory() as folder:
                replay = _Replay(simulation, seed, Path(folder))
                for strategy in simulation.strategies:
                    known = [p for p in done if p["strategy"] == strategy and p["seed"] == seed]
                    for point in replay.play(strategy, counts, known):
                        text = f"seed {seed}, {strategy}: {point['labelled']} labeled"
                        progress.update(task, advance=1, description=text)
    points = read_points(simulation.out)
    chosen = [p for p in points if p["strategy"] in simulation.strategies]
    plot(chosen, simulation.out.with_suffix(".png"))
    console.print(table(chosen))
    return chosen


class _Replay:
    """All rounds of one seed; a round that two strategies share is computed once."""

    def __init__(self, simulation: Simulation, seed: int, folder: Path) -> None:
        self.simulation = simulation
        self.seed = seed
        self.settings = replace(simulation.settings, model_dir=folder, seed=seed, labeled_only=True)
        self.store = ModelStore(folder)
        files = simulation.pool.shuffled(seed)
        self.test = files[: simulation.test]
        self.files = files[simulation.test :][: simulation.cases]
        self._judged: dict[frozenset[str], RoundResult] = {}
        self._vectors = self._embeddings()  # before any round: they need no student

    def play(self, strategy: str, counts: Sequence[int], known: Sequence[Point]) -> Iterator[Point]:
        """Yield a strategy's points; those known from the file are not computed again."""
        held = {point["labelled"]: point for point in known}
        labeled = self.files[: self.simulation.start]
        for count in counts:
            point = held.get(count)
            if point is None:
                dice, scores = self._round(labeled)
                point = {
                    "strategy": strategy,
                    "seed": self.seed,
                    "labelled": count,
                    "dice": dice,
                    "next": self._choose(strategy, labeled, scores),
                }
                append_line(self.simulation.out, json.dumps(point))
            labeled = labeled + point["next"]
            yield point

    def _round(self, labeled: Sequence[str]) -> RoundResult:
        key = frozenset(labeled)
        if key not in self._judged:
            unlabeled = [file for file in self.files if file not in key]
            pool = self.simulation.pool
            # the strategy is judged, not the gate: all labels train, every student is looked at
            runs = self.store.folder.runs
            cases = pool.pool(sorted(labeled), unlabeled)
            fitted = fit(cases, self.settings, Reporter(), runs, "strategies are compared so")
            fitted.checkpoint.remove()
            device = self.settings.device
            published = fitted.loaded(device)
            scores = {
                file: score_of(file, published, published.segment(read_scan(pool.images / file)))
                for file in unlabeled
            }
            self._judged[key] = (self._test(published), scores)
        return self._judged[key]

    def _test(self, published: LoadedStudent) -> float:
        by_case = judge(published, self.simulation.pool.cases(self.test, []), released=False)
        names = self.simulation.pool.labels
        return float(np.mean([np.nanmean([dice[n] for dice in by_case.values()]) for n in names]))

    def _choose(
        self, strategy: str, labeled: Sequence[str], scores: Mapping[str, Score]
    ) -> list[str]:
        candidates = Candidates(frozenset(scores), frozenset(labeled), scores, self._vectors)
        order = STRATEGIES[strategy][1](candidates, self.seed)
        return [choice.case for choice in order[: self.simulation.step]]

    def _embeddings(self) -> dict[str, tuple[float, ...]]:
        """Return embeddings of the whole pool by file name, computed once."""
        embeddings = embeddings_of(self.store.folder, self.settings.generalist)
        cases = {self.simulation.pool.case(f, annotated=False).name: f for f in self.files}
        if cases.keys() - embeddings.read().keys():
            unlabeled = [self.simulation.pool.case(file, annotated=False) for file in self.files]
            embed(self.store, unlabeled, self.settings, Reporter(), Found())
        return {cases[name]: one.vector for name, one in embeddings.read().items() if name in cases}


def areas(points: Sequence[Point]) -> dict[str, dict[int, float]]:
    """Return mean Dice over the curve (trapezoids) by strategy and seed, for complete curves."""
    counts = sorted({point["labelled"] for point in points})
    curves: dict[str, dict[int, dict[int, float]]] = {}
    for point in points:
        curve = curves.setdefault(point["strategy"], {}).setdefault(point["seed"], {})
        curve[point["labelled"]] = point["dice"]
    width = max(counts[-1] - counts[0], 1)
    return {
        strategy: {
            seed: float(np.trapz([curve[c] for c in counts], counts) / width)
            if len(counts) > 1
            else curve[counts[0]]
            for seed, curve in seeds.items()
            if len(curve) == len(counts)
        }
        for strategy, seeds in curves.items()
    }


def table(points: Sequence[Point]) -> Table:
    """Return areas with spread, and paired differences to the baseline with 95 % t intervals."""
    shown = Table(title="Mean Dice over the annotation curve")
    for title in (
        "strategy",
        "area",
        "deviation over seeds",
        f"minus {BASELINE_STRATEGY}",
        "seeds",
    ):
        shown.add_column(title, justify="left" if title == "strategy" else "right")
    areas_by_strategy = areas(points)
    for strategy, seeds in areas_by_strategy.items():
        if not seeds:
            continue
        values = np.array(list(seeds.values()))
        shared = sorted(set(seeds) & set(areas_by_strategy.get(BASELINE_STRATEGY, {})))
        gaps = np.array(
            [seeds[seed] - areas_by_strategy[BASELINE_STRATEGY][seed] for seed in shared]
        )
        spread = f"{values.std(ddof=1):.4f}" if len(values) > 1 else ""
        shown.add_row(strategy, f"{values.mean():.4f}", spread, gap_text(gaps), str(len(values)))
    return shown


def plot(points: Sequence[Point], path: Path) -> None:
    """Draw Dice by labeled cases, with a band of one standard deviation over seeds per strategy."""
    with drawn(path, "labeled cases") as axes:
        for strategy in dict.fromkeys(point["strategy"] for point in points):
            own = [point for point in points if point["strategy"] == strategy]
            counts, mean, spread = dice_curve(own, "labelled")
            (line,) = axes.plot(counts, mean, marker="o", label=strategy)
            low, high = mean - spread, mean + spread
            axes.fill_between(counts, low, high, alpha=0.15, color=line.get_color())
