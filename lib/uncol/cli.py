"""The console command `uncol`."""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from uncol.demo.run import run_demo
from uncol.errors import UncolError
from uncol.networks.teachers import medsam, sam_med3d
from uncol.networks.weights import fetch
from uncol.settings import Settings

app = typer.Typer(
    help="UnCoL for MONAI Label.", no_args_is_help=True, pretty_exceptions_enable=False
)
weights = typer.Typer(help="Weights of generalized teachers.", no_args_is_help=True)
app.add_typer(weights, name="weights")


MODEL_DIR = Settings().model_dir


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


@weights.command("fetch")
def weights_fetch(
    teacher: Fetchable,
    model_dir: Annotated[Path, typer.Option(help="the app's model_dir")] = MODEL_DIR,
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
