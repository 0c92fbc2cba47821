"""Lines of what is no method of UnCoL, on the cases of `uncol benchmark ssl`, shown beside its own.

`uncol benchmark ssl` with the same data, `--train`, `--test`, `--preset`, `--minutes` and `--out`
prints them in its table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from uncol.cli import options
from uncol.experiments.comparison import Comparison, Training, header
from uncol.experiments.points import Point, points_like
from uncol.experiments.pool import open_pool
from uncol.experiments.ssl import judge_labels
from uncol.storage.files import append_line
from uncol.types import Array


def arguments(text: str) -> argparse.ArgumentParser:
    """Return a parser of what all of them are asked."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=Path, required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--patient", default="")
    parser.add_argument("--preset", default="auto", help="as the lines beside it have")
    parser.add_argument("--train", type=int, default=48)
    parser.add_argument("--test", type=int, default=options.TEST)
    parser.add_argument("--budgets", default="1")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--minutes", default="2")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def compare(
    asked: argparse.Namespace,
    name: str,
    recipe: str,
    run: Callable[[Comparison, Training], Point],
) -> None:
    """Run what is not in the file yet, and write a line each.

    Args:
        asked: the parsed arguments.
        name: one of `OTHERS`.
        recipe: how it works, in a word.
        run: learns from the first of `parts`, labels the second, and returns what `judged` does.
    """
    comparison = Comparison(
        pool=open_pool(asked.studies, asked.labels, patient=asked.patient),
        methods=("supervised",),
        budgets=options.numbers(asked.budgets),
        seeds=options.numbers(asked.seeds),
        train=asked.train,
        test=asked.test,
        steps=None,
        settings=options.round_of(asked.labels, asked.preset, "litemedsam", 1.0),
        out=asked.out,
        minutes=options.decimals(asked.minutes),
    )
    comparison.check()
    Console().print(header(comparison))
    for training in comparison.trainings():
        line = {**comparison.line_of_other(training, name), "recipe": recipe}
        if not points_like(asked.out, line):
            point = {**line, **run(comparison, training)}
            append_line(asked.out, json.dumps(point))
            print(f"{training.seed}, {training.budget} labels: Dice {point['dice']:.3f}")


def parts(comparison: Comparison, training: Training) -> tuple[list[str], list[str]]:
    """Return the files of the annotated training scans, and those of the scans that judge."""
    train, test = comparison.pool.parts(training.seed, test=comparison.test)
    return train[: training.budget], test


def judged(
    comparison: Comparison,
    test: Sequence[str],
    label_of: Callable[[str], Array],
    *,
    seconds: float,
    steps: int,
) -> Point:
    """Return the figures of a line.

    Args:
        comparison: whose pool it is.
        test: files that judge.
        label_of: returns the label `(I, J, K)` of a file, in its scan's grid.
        seconds: how long learning took.
        steps: of how many steps it was.
    """
    own = judge_labels(comparison.pool, label_of, test)
    return {
        **own,
        "single": [],
        "served": own,
        "seconds": round(seconds, 1),
        "step_seconds": round(seconds / max(steps, 1), 4),
        "planned_steps": [steps, 0],
    }
