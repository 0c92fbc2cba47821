"""The command itself: its groups, what stands at its top level, and how errors end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from uncol.cli import options
from uncol.cli.benchmark import benchmark
from uncol.cli.models import models
from uncol.errors import UncolError
from uncol.generalist.models import GENERALISTS, download_of
from uncol.storage.model_folder import ModelFolder

app = typer.Typer(
    help="UnCoL for MONAI Label.", no_args_is_help=True, pretty_exceptions_enable=False
)
weights = typer.Typer(help="Weights of generalists.", no_args_is_help=True)
app.add_typer(models, name="models")
app.add_typer(weights, name="weights")
app.add_typer(benchmark, name="benchmark")

FETCHED = [name for name, entry in GENERALISTS.items() if entry.downloaded]


@app.command()
def demo(
    studies: Annotated[Path | None, typer.Option(help="folder with images/ and labels/")] = None,
    labels: Annotated[str | None, typer.Option(help='their labels, "a,b"')] = None,
    once: Annotated[bool, typer.Option("--once", help="stop the server at the end")] = False,
    out: Annotated[Path, typer.Option(help="the demo's folder, emptied first")] = Path("demo-out"),
) -> None:
    """Play a whole annotation session against a real server."""
    from uncol.demo.run import run_demo

    run_demo(studies, labels, once=once, out=out)


@app.command(name="serve-pacs")
def serve_pacs(
    dicom: Annotated[Path | None, typer.Option(help="DICOM folder; else generated brains")] = None,
    labels: Annotated[str | None, typer.Option(help='structures to segment, "a,b"')] = None,
    port: Annotated[int, typer.Option(help="the server's port")] = 8000,
    out: Annotated[Path, typer.Option(help="what is kept between starts")] = Path("pacs-out"),
) -> None:
    """Start a PACS (Orthanc), fill it, start the server, print where OHIF is."""
    from uncol.demo import serve

    serve.serve_pacs(dicom, labels, out=out.absolute(), port=port)


@app.command()
def simulate(
    studies: Annotated[Path, options.STUDIES_OPTION],
    labels: Annotated[str, options.LABELS_OPTION],
    out: Annotated[Path, typer.Option(help="JSON lines; points in it are not computed again")],
    strategies: Annotated[
        str, typer.Option(help=f"separated by commas, of {', '.join(options.STRATEGY_NAMES)}")
    ] = "uncol,foreground_random,random",
    start: Annotated[int, typer.Option(help="cases labeled before the first choice")] = 4,
    step: Annotated[int, typer.Option(help="cases chosen at a time")] = 4,
    stop: Annotated[int, typer.Option(help="labeled cases at the end")] = 24,
    seeds: Annotated[str, typer.Option(help="separated by commas")] = "0,1,2,3",
    test: Annotated[
        int | None, typer.Option(help="cases that judge and never train; 40, or what is left")
    ] = None,
    cases: Annotated[int, typer.Option(help="most cases of the pool, besides test ones")] = 100,
    preset: Annotated[str, options.PRESET_OPTION] = "auto",
    generalist: Annotated[str, options.GENERALIST_OPTION] = "litemedsam",
    step_scale: Annotated[float, options.STEP_SCALE_OPTION] = 1.0,
) -> None:
    """Replay annotation on a labeled pool: Dice by number of labeled cases, per strategy."""
    from rich.console import Console

    from uncol.experiments import simulate as replay
    from uncol.experiments.pool import open_pool

    pool = open_pool(studies, labels)
    replay.simulate(
        replay.Simulation(
            pool=pool,
            strategies=tuple(strategies.split(",")),
            start=start,
            step=step,
            stop=stop,
            seeds=options.numbers(seeds),
            test=max(1, min(options.TEST, len(pool.files) - stop)) if test is None else test,
            cases=cases,
            settings=options.round_of(labels, preset, generalist, step_scale),
            out=out,
        ),
        Console(),
    )


@weights.command("fetch")
def weights_fetch(
    name: Annotated[str, typer.Argument(help=f"one of {', '.join(FETCHED)}")],
    model_dir: Annotated[Path, options.MODEL_DIR_OPTION] = options.DEFAULT_MODEL_DIR,
) -> None:
    """Download a generalist's weights; an interrupted download resumes."""
    from uncol.networks.weights import fetch

    if name not in FETCHED:
        raise typer.BadParameter(f"'{name}' is none of {', '.join(FETCHED)}")
    typer.echo(fetch(download_of(name), ModelFolder(model_dir).downloads))


def main() -> None:
    """Run the command; errors meant for people end without a traceback."""
    logging.basicConfig(level=logging.WARNING)
    try:
        app()
    except UncolError as error:
        typer.secho(str(error), err=True, fg="red")
        raise SystemExit(1) from error
