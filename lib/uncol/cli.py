"""The console command `uncol`."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from uncol.datastores.studies import UncolDatastore, cases_of
from uncol.demo.run import run_demo
from uncol.demo.serve import serve_pacs as run_serve_pacs
from uncol.errors import UncolError
from uncol.experiments.methods import ABLATIONS, COMPARED
from uncol.experiments.pool import open_pool
from uncol.experiments.rounds import Rounds, play
from uncol.experiments.simulate import Simulation
from uncol.experiments.simulate import simulate as run_simulation
from uncol.experiments.ssl import BASELINE, Comparison, compare
from uncol.experiments.uncertainty import Setup, measure, write_report
from uncol.generalist.models import medsam, sam_med3d
from uncol.networks.weights import fetch
from uncol.settings import Settings, parse_settings
from uncol.tasks.scoring import LogReporter
from uncol.tasks.train import round_settings
from uncol.training.verify import verify
from uncol.versions.report import list_versions, show_version
from uncol.versions.store import ModelStore

app = typer.Typer(
    help="UnCoL for MONAI Label.", no_args_is_help=True, pretty_exceptions_enable=False
)
models = typer.Typer(help="Versions of the student.", no_args_is_help=True)
app.add_typer(models, name="models")
weights = typer.Typer(help="Weights of generalized teachers.", no_args_is_help=True)
app.add_typer(weights, name="weights")
benchmark = typer.Typer(help="Measure what the product is worth.", no_args_is_help=True)
app.add_typer(benchmark, name="benchmark")

TEST = 40  # cases that judge a simulation, where there are enough
STUDIES = typer.Option(help="folder with images/ and labels/ of the same file names")
LABELS = typer.Option(help='names of the label values 1, 2, ...: "a,b"')


MODEL_DIR = typer.Option(help="the app's model_dir")
DEFAULT_MODEL_DIR = Settings().model_dir


def numbers(text: str) -> tuple[int, ...]:
    """Return whole numbers separated by commas.

    Raises:
        typer.BadParameter: something else is between the commas.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not whole numbers with commas") from error


class Fetchable(StrEnum):
    """Generalized teachers whose weights are downloaded."""

    medsam = "medsam"
    sam_med3d = "sam_med3d"


DOWNLOADS = {Fetchable.medsam: medsam.WEIGHTS, Fetchable.sam_med3d: sam_med3d.WEIGHTS}


@app.command()
def demo(
    studies: Annotated[Path | None, typer.Option(help="folder with images/ and labels/")] = None,
    labels: Annotated[str | None, typer.Option(help='their labels, "a,b"')] = None,
    once: Annotated[bool, typer.Option("--once", help="stop the server at the end")] = False,
    out: Annotated[Path, typer.Option(help="the demo's folder, emptied first")] = Path("demo-out"),
) -> None:
    """Play a whole annotation session against a real server."""
    run_demo(studies, labels, once=once, out=out)


@app.command(name="serve-pacs")
def serve_pacs(
    dicom: Annotated[Path | None, typer.Option(help="folder of DICOM files; else brains")] = None,
    labels: Annotated[str | None, typer.Option(help='structures to segment, "a,b"')] = None,
    port: Annotated[int, typer.Option(help="the server's port")] = 8000,
    out: Annotated[Path, typer.Option(help="what is kept between starts")] = Path("pacs-out"),
) -> None:
    """Start a PACS (Orthanc), fill it, start the server, print where OHIF is."""
    run_serve_pacs(dicom, labels, out=out.absolute(), port=port)


@app.command()
def simulate(
    studies: Annotated[Path, STUDIES],
    labels: Annotated[str, LABELS],
    out: Annotated[Path, typer.Option(help="JSON lines; points in it are not computed again")],
    strategies: Annotated[str, typer.Option()] = "uncol,foreground_random,random",
    start: Annotated[int, typer.Option(help="cases labeled before the first choice")] = 4,
    step: Annotated[int, typer.Option(help="cases chosen at a time")] = 4,
    stop: Annotated[int, typer.Option(help="labeled cases at the end")] = 24,
    seeds: Annotated[str, typer.Option(help="numbers with commas")] = "0,1,2,3",
    test: Annotated[
        int | None, typer.Option(help="cases that judge and never train; 40, or what is left")
    ] = None,
    cases: Annotated[int, typer.Option(help="most cases of the pool, test ones aside")] = 100,
    preset: Annotated[str, typer.Option()] = "auto",
    teacher: Annotated[str, typer.Option()] = "litemedsam",
    step_scale: Annotated[float, typer.Option(help="multiplies the planned steps")] = 1.0,
) -> None:
    """Replay annotation on a labeled pool: Dice against labeled cases, a strategy each."""
    settings, _ = parse_settings({"labels": labels, "preset": preset, "teacher": teacher})
    pool = open_pool(studies, labels)
    run_simulation(
        Simulation(
            pool=pool,
            strategies=tuple(strategies.split(",")),
            start=start,
            step=step,
            stop=stop,
            seeds=numbers(seeds),
            test=max(1, min(TEST, len(pool.files) - stop)) if test is None else test,
            cases=cases,
            settings=replace(round_settings(settings, None), step_scale=step_scale),
            out=out,
        ),
        Console(),
    )


@benchmark.command("uncertainty")
def benchmark_uncertainty(
    studies: Annotated[Path, STUDIES],
    labels: Annotated[str, LABELS],
    labeled: Annotated[int, typer.Option()] = 8,
    unlabeled: Annotated[int, typer.Option()] = 40,
    test: Annotated[int, typer.Option()] = 40,
    seed: Annotated[int, typer.Option(help="draws the cases and seeds the training")] = 0,
    model_dir: Annotated[Path | None, typer.Option(help="keeps the student for next time")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Judge map and estimated Dice on unseen cases, beside MONAI Label's epistemic scoring."""
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
    studies: Annotated[Path, STUDIES],
    labels: Annotated[str, LABELS],
    out: Annotated[Path, typer.Option(help="JSON lines, one a round")],
    rounds: Annotated[int, typer.Option()] = 5,
    step: Annotated[int, typer.Option(help="newly labeled cases a round")] = 10,
    wrong_round: Annotated[int, typer.Option(help="its labels are 30 % wrong; 0 for none")] = 3,
    unlabeled: Annotated[int, typer.Option(help="further cases, never labeled")] = 20,
    test: Annotated[int, typer.Option(help="truly unseen cases")] = TEST,
    seed: Annotated[int, typer.Option()] = 0,
    preset: Annotated[str, typer.Option()] = "auto",
    teacher: Annotated[str, typer.Option()] = "litemedsam",
    step_scale: Annotated[float, typer.Option(help="multiplies the planned steps")] = 1.0,
) -> None:
    """Play rounds with wrong labels in one, beside MONAI Label's own training."""
    settings, _ = parse_settings({"labels": labels, "preset": preset, "teacher": teacher})
    play(
        Rounds(
            pool=open_pool(studies, labels),
            rounds=rounds,
            step=step,
            wrong_round=wrong_round,
            unlabeled=unlabeled,
            test=test,
            seed=seed,
            settings=replace(round_settings(settings, None), step_scale=step_scale),
            out=out,
        ),
        Console(),
    )


@benchmark.command("ssl")
def benchmark_ssl(
    studies: Annotated[Path, STUDIES],
    labels: Annotated[str, LABELS],
    out: Annotated[Path, typer.Option(help="JSON lines; runs in it are not computed again")],
    methods: Annotated[
        str, typer.Option(help=f"names with commas; ablations: {', '.join(ABLATIONS)}")
    ] = ",".join(COMPARED),
    budgets: Annotated[str, typer.Option(help="labeled training scans")] = "2,4,8",
    seeds: Annotated[str, typer.Option(help="numbers with commas")] = "0,1,2",
    train: Annotated[int, typer.Option(help="training scans, labeled and not")] = 48,
    test: Annotated[int, typer.Option(help="cases that judge")] = TEST,
    steps: Annotated[
        str | None, typer.Option(help='of both stages, "400,800"; else what the app plans')
    ] = None,
    preset: Annotated[str, typer.Option()] = "auto",
    teacher: Annotated[str, typer.Option(help="where a method has one")] = "litemedsam",
    step_scale: Annotated[float, typer.Option(help="multiplies the planned steps")] = 1.0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; else what is there")] = None,
    patient: Annotated[
        str, typer.Option(help="expression that finds the patient in a file name of several scans")
    ] = "",
    baseline: Annotated[
        str, typer.Option(help="method that the table compares with; one of --methods")
    ] = BASELINE,
) -> None:
    """Compare UnCoL with the field's semi-supervised methods on few labels."""
    settings, _ = parse_settings({"labels": labels, "preset": preset, "teacher": teacher})
    first, second = numbers(steps) if steps else (0, 0)
    compare(
        Comparison(
            pool=open_pool(studies, labels, patient=patient),
            methods=tuple(methods.split(",")),
            budgets=numbers(budgets),
            seeds=numbers(seeds),
            train=train,
            test=test,
            steps=(first, second) if steps else None,
            settings=replace(round_settings(settings, device), step_scale=step_scale),
            out=out,
            baseline=baseline,
        ),
        Console(),
    )


@models.command("list")
def models_list(model_dir: Annotated[Path, MODEL_DIR] = DEFAULT_MODEL_DIR) -> None:
    """List versions, the refused ones too."""
    made = Column("made", no_wrap=True)
    table = Table("version", "", made, "labeled", "held out", "Dice (95 %)", "gate")
    for line in list_versions(ModelStore(model_dir / "uncol")):
        interval = line.get("interval")
        dice = "" if line.get("dice") is None else f"{line['dice']:.3f}"
        if interval:
            dice += f" ({interval[0]:.3f} to {interval[1]:.3f})"
        table.add_row(
            str(line["version"]),
            "served" if line["served"] else "",
            str(line.get("created", "")),
            str(line.get("labeled", "")),
            str(line.get("held_out", "")),
            dice,
            str(line.get("error") or line["gate"]),
        )
    Console().print(table)


@models.command("show")
def models_show(version: int, model_dir: Annotated[Path, MODEL_DIR] = DEFAULT_MODEL_DIR) -> None:
    """Tell all that is known of a version, as JSON."""
    Console().print_json(data=show_version(ModelStore(model_dir / "uncol"), version))


@models.command("rollback")
def models_rollback(
    version: Annotated[int | None, typer.Argument(help="the one before, if not given")] = None,
    model_dir: Annotated[Path, MODEL_DIR] = DEFAULT_MODEL_DIR,
) -> None:
    """Serve an earlier version again; a running server takes it up at the next request."""
    print(f"Version {ModelStore(model_dir / 'uncol').rollback(version)} is served.")


@models.command("gc")
def models_gc(
    keep: Annotated[int, typer.Option(min=1, help="newest versions that stay")] = 5,
    model_dir: Annotated[Path, MODEL_DIR] = DEFAULT_MODEL_DIR,
) -> None:
    """Delete old versions; the served one stays."""
    gone = ModelStore(model_dir / "uncol").gc(keep)
    print(f"Deleted: {', '.join(map(str, gone)) or 'none'}.")


@models.command("verify")
def models_verify(
    version: int,
    studies: Annotated[Path, typer.Option(help="the server's studies folder")],
    retrain: Annotated[bool, typer.Option("--retrain", help="also train it again")] = False,
    model_dir: Annotated[Path, MODEL_DIR] = DEFAULT_MODEL_DIR,
) -> None:
    """Score a version again on its held-out cases, with the labels of then, and compare."""
    store = ModelStore(model_dir / "uncol")
    manifest = store.manifest(version)
    pool = UncolDatastore(str(studies), labels=manifest.labels, read_only=True)
    cases = cases_of(pool)
    earlier = {case.name: [kept.path for kept in pool.history.of(case.name)] for case in cases}
    settings = round_settings(Settings(labels=manifest.labels, model_dir=model_dir), None)
    found = verify(store, version, cases, earlier, settings, LogReporter(), retrain=retrain)
    for name, (then, now) in found.dice.items():
        print(f"{name}: Dice {then:.4f} as published, {now:.4f} now")
    for name in found.changed:
        print(f"{name}: its label of then is gone")
    for name, (made_by, here) in found.packages.items():
        print(f"{name} {made_by} made it, {here} is installed: training may differ")
    if found.weights is not None:
        print(f"Trained again: weights differ by at most {found.weights:g}")
    if not (found.dice or found.changed or found.weights is not None):
        print("Nothing is held out; --retrain compares the weights.")
    if not found.holds:
        raise typer.Exit(1)
    print(f"Version {version} is what its manifest says.")


@weights.command("fetch")
def weights_fetch(
    teacher: Fetchable,
    model_dir: Annotated[Path, MODEL_DIR] = DEFAULT_MODEL_DIR,
) -> None:
    """Download a generalized teacher's weights; an interrupted download resumes."""
    print(fetch(DOWNLOADS[teacher], model_dir / "weights"))


def main() -> None:
    """Run the command; errors meant for people end without a traceback."""
    logging.basicConfig(level=logging.WARNING)
    try:
        app()
    except UncolError as error:
        typer.secho(str(error), err=True, fg="red")
        raise SystemExit(1) from error
