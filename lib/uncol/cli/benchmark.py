"""`uncol benchmark`: measure what the product is worth, on labeled pools."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uncol.cli import options

if TYPE_CHECKING:
    from uncol.experiments.comparison import Comparison
    from uncol.round_settings import RoundSettings

benchmark = typer.Typer(help="Measure what the product is worth.", no_args_is_help=True)


@dataclass(frozen=True)
class _Scans:
    """Which labeled scans a command compares on, as its options say it."""

    studies: Path
    labels: str
    patient: str
    train: int
    test: int


def _comparison(
    scans: _Scans, methods: str, budgets: str, seeds: str, settings: RoundSettings, out: Path
) -> Comparison:
    """Return what is compared for the steps that the app plans.

    Raises:
        RequestError: the scans cannot be used.
        typer.BadParameter: budgets or seeds are not whole numbers.
    """
    from uncol.experiments.comparison import Comparison
    from uncol.experiments.pool import open_pool

    return Comparison(
        pool=open_pool(scans.studies, scans.labels, patient=scans.patient),
        methods=tuple(methods.split(",")),
        budgets=options.numbers(budgets),
        seeds=options.numbers(seeds),
        train=scans.train,
        test=scans.test,
        steps=None,
        settings=settings,
        out=out,
    )


@benchmark.command("uncertainty")
def benchmark_uncertainty(
    studies: Annotated[Path, options.STUDIES_OPTION],
    labels: Annotated[str, options.LABELS_OPTION],
    labeled: Annotated[int, typer.Option()] = 8,
    unlabeled: Annotated[int, typer.Option()] = 40,
    test: Annotated[int, typer.Option()] = 40,
    seed: Annotated[int, typer.Option(help="draws the cases and seeds the training")] = 0,
    model_dir: Annotated[Path | None, typer.Option(help="keeps the student for next time")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Judge map and estimated Dice on unseen cases, beside MONAI Label's epistemic scoring."""
    from rich.console import Console

    from uncol.experiments.pool import open_pool
    from uncol.experiments.uncertainty import Setup, measure, write_report

    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(
            pool=open_pool(studies, labels),
            labeled=labeled,
            unlabeled=unlabeled,
            test=test,
            seed=seed,
            model_dir=model_dir or Path(folder),
        )
        report = measure(setup, Console())
    if out is not None:
        write_report(report, out)


@benchmark.command("rounds")
def benchmark_rounds(
    studies: Annotated[Path, options.STUDIES_OPTION],
    labels: Annotated[str, options.LABELS_OPTION],
    out: Annotated[Path, typer.Option(help="JSON lines, one per round")],
    rounds: Annotated[int, typer.Option()] = 5,
    step: Annotated[int, typer.Option(help="newly labeled cases per round")] = 10,
    wrong_round: Annotated[int, typer.Option(help="30 % of its labels are wrong; 0: none")] = 3,
    unlabeled: Annotated[int, typer.Option(help="further cases, never labeled")] = 20,
    test: Annotated[int, typer.Option(help="truly unseen cases")] = options.TEST,
    seed: Annotated[int, typer.Option()] = 0,
    preset: Annotated[str, options.PRESET_OPTION] = "auto",
    generalist: Annotated[str, options.GENERALIST_OPTION] = "litemedsam",
    step_scale: Annotated[float, options.STEP_SCALE_OPTION] = 1.0,
) -> None:
    """Play rounds, one of them with wrong labels, beside MONAI Label's own training."""
    from rich.console import Console

    from uncol.experiments.pool import open_pool
    from uncol.experiments.rounds import Rounds, play

    play(
        Rounds(
            pool=open_pool(studies, labels),
            rounds=rounds,
            step=step,
            wrong_round=wrong_round,
            unlabeled=unlabeled,
            test=test,
            seed=seed,
            settings=options.round_of(labels, preset, generalist, step_scale),
            out=out,
        ),
        Console(),
    )


@benchmark.command("ssl")
def benchmark_ssl(
    studies: Annotated[Path, options.STUDIES_OPTION],
    labels: Annotated[str, options.LABELS_OPTION],
    out: Annotated[Path, typer.Option(help="JSON lines; runs in it are not computed again")],
    methods: Annotated[
        str | None,
        typer.Option(
            help="separated by commas; a wrong one lists all. Default: UnCoL and the field's"
        ),
    ] = None,
    budgets: Annotated[str, typer.Option(help="numbers of labeled training scans")] = "2,4,8",
    seeds: Annotated[str, typer.Option(help="separated by commas")] = "0,1,2",
    train: Annotated[int, typer.Option(help="training scans, labeled and not")] = 48,
    test: Annotated[int, typer.Option(help="cases that judge")] = options.TEST,
    steps: Annotated[
        str | None, typer.Option(help='of both stages, "400,800"; default: as the app plans')
    ] = None,
    minutes: Annotated[
        str | None,
        typer.Option(help='lengths of trainings on this machine, "1,2,5"; instead of steps'),
    ] = None,
    preset: Annotated[str, options.PRESET_OPTION] = "auto",
    generalist: Annotated[str, options.GENERALIST_OPTION] = "litemedsam",
    step_scale: Annotated[float, options.STEP_SCALE_OPTION] = 1.0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU, if any")] = None,
    patient: Annotated[str, options.PATIENT_OPTION] = "",
    baseline: Annotated[
        str, typer.Option(help="method the table compares the others with; one of --methods")
    ] = "supervised",
) -> None:
    """Compare UnCoL with the field's semi-supervised methods on few labels."""
    from rich.console import Console

    from uncol.experiments.methods import COMPARED
    from uncol.experiments.ssl import compare

    first, second = options.numbers(steps) if steps else (0, 0)
    scans = _Scans(studies, labels, patient, train, test)
    settings = options.round_of(labels, preset, generalist, step_scale, device=device)
    names = methods or ",".join(COMPARED)
    comparison = replace(
        _comparison(scans, names, budgets, seeds, settings, out),
        steps=(first, second) if steps else None,
        baseline=baseline,
        minutes=options.decimals(minutes) if minutes else (),
    )
    compare(comparison, Console())


@benchmark.command("average")
def benchmark_average(
    studies: Annotated[Path, options.STUDIES_OPTION],
    labels: Annotated[str, options.LABELS_OPTION],
    out: Annotated[Path, typer.Option(help="JSON lines; runs in it are not computed again")],
    methods: Annotated[str, typer.Option(help="separated by commas")] = "supervised",
    budgets: Annotated[str, typer.Option(help="numbers of labeled training scans")] = "8",
    seeds: Annotated[str, typer.Option(help="separated by commas")] = "0,1,2",
    train: Annotated[int, typer.Option(help="training scans, labeled and not")] = 48,
    test: Annotated[int, typer.Option(help="cases that judge")] = options.TEST,
    preset: Annotated[str, options.PRESET_OPTION] = "auto",
    generalist: Annotated[str, options.GENERALIST_OPTION] = "litemedsam",
    step_scale: Annotated[float, options.STEP_SCALE_OPTION] = 1.0,
    patient: Annotated[str, options.PATIENT_OPTION] = "",
) -> None:
    """Judge a run's student beside its average at a quarter, half and all of the run."""
    from rich.console import Console

    from uncol.experiments.average import follow

    scans = _Scans(studies, labels, patient, train, test)
    settings = options.round_of(labels, preset, generalist, step_scale)
    comparison = _comparison(scans, methods, budgets, seeds, settings, out)
    follow(comparison, Console())


@benchmark.command("continued")
def benchmark_continued(
    studies: Annotated[Path, options.STUDIES_OPTION],
    labels: Annotated[str, options.LABELS_OPTION],
    out: Annotated[Path, typer.Option(help="JSON lines; seeds in it are not computed again")],
    budgets: Annotated[str, typer.Option(help="labels of the first round and the next")] = "4,8",
    seeds: Annotated[str, typer.Option(help="separated by commas")] = "0,1,2",
    train: Annotated[int, typer.Option(help="training scans, labeled and not")] = 48,
    test: Annotated[int, typer.Option(help="cases that judge")] = options.TEST,
    preset: Annotated[str, options.PRESET_OPTION] = "auto",
    generalist: Annotated[str, options.GENERALIST_OPTION] = "litemedsam",
    step_scale: Annotated[float, options.STEP_SCALE_OPTION] = 1.0,
    patient: Annotated[str, options.PATIENT_OPTION] = "",
) -> None:
    """Judge a round that goes on from the one before beside one from random weights."""
    from rich.console import Console

    from uncol.experiments.continued import play

    scans = _Scans(studies, labels, patient, train, test)
    settings = options.round_of(labels, preset, generalist, step_scale)
    comparison = _comparison(scans, "uncol", budgets, seeds, settings, out)
    play(comparison, Console())


@benchmark.command("session")
def benchmark_session(
    studies: Annotated[Path, options.STUDIES_OPTION],
    labels: Annotated[str, options.LABELS_OPTION],
    out: Annotated[Path, typer.Option(help="JSON lines; groups in it are not played again")],
    budgets: Annotated[
        str, typer.Option(help="labels after which Train is pressed")
    ] = "1,2,4,8,16",
    night: Annotated[float, typer.Option(help="minutes of idle training at the end")] = 60,
    seeds: Annotated[str, typer.Option(help="separated by commas")] = "0,1,2",
    train: Annotated[int, typer.Option(help="training scans, labeled and not")] = 48,
    test: Annotated[int, typer.Option(help="cases that judge")] = options.TEST,
    preset: Annotated[str, options.PRESET_OPTION] = "auto",
    generalist: Annotated[str, options.GENERALIST_OPTION] = "litemedsam",
    step_scale: Annotated[float, options.STEP_SCALE_OPTION] = 1.0,
    patient: Annotated[str, options.PATIENT_OPTION] = "",
    plot: Annotated[Path | None, typer.Option(help="PNG of Dice against labels")] = None,
) -> None:
    """Play a group that labels a pool, beside rounds from random weights and MONAI Label's own."""
    from rich.console import Console

    from uncol.experiments.session import GroupSession, draw, play

    scans = _Scans(studies, labels, patient, train, test)
    settings = options.round_of(labels, preset, generalist, step_scale)
    comparison = _comparison(scans, "uncol", budgets, seeds, settings, out)
    points = play(GroupSession(comparison, night), Console())
    if plot is not None:
        draw(points, plot)
