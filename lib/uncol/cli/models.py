"""`uncol models`: look at versions of the student, go back, clean up, verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uncol.cli import options
from uncol.storage.model_folder import VERSIONS_KEPT

if TYPE_CHECKING:
    from uncol.training.verify import Verification
    from uncol.versions.store import ModelStore

models = typer.Typer(help="Versions of the student.", no_args_is_help=True)


@models.command("list")
def models_list(
    model_dir: Annotated[Path, options.MODEL_DIR_OPTION] = options.DEFAULT_MODEL_DIR,
) -> None:
    """List versions, the refused ones too."""
    from rich.console import Console
    from rich.table import Column, Table

    from uncol.versions.report import list_versions

    version, served, made = (Column(title, no_wrap=True) for title in ("version", "", "made"))
    table = Table(version, served, made, "labeled", "held out", "Dice (95 %)", "gate")
    for line in list_versions(_store(model_dir)):
        dice = "" if line.dice is None else f"{line.dice:.3f}"
        if line.interval:
            dice += f" ({line.interval[0]:.3f} to {line.interval[1]:.3f})"
        table.add_row(
            str(line.version),
            "served" if line.served else "",
            line.created,
            _count(line.labeled),
            _count(line.held_out),
            dice,
            line.error or line.gate,
        )
    Console().print(table)


@models.command("show")
def models_show(
    version: int, model_dir: Annotated[Path, options.MODEL_DIR_OPTION] = options.DEFAULT_MODEL_DIR
) -> None:
    """Print all that is known about a version, as JSON."""
    from rich.console import Console

    from uncol.versions.report import show_version

    Console().print_json(data=show_version(_store(model_dir), version))


@models.command("rollback")
def models_rollback(
    version: Annotated[int | None, typer.Argument(help="the one before, if not given")] = None,
    model_dir: Annotated[Path, options.MODEL_DIR_OPTION] = options.DEFAULT_MODEL_DIR,
) -> None:
    """Serve an earlier version again; a running server takes it up at the next request."""
    typer.echo(f"Version {_store(model_dir).rollback(version)} is served.")


@models.command("gc")
def models_gc(
    keep: Annotated[int, typer.Option(min=1, help="newest versions that stay")] = VERSIONS_KEPT,
    model_dir: Annotated[Path, options.MODEL_DIR_OPTION] = options.DEFAULT_MODEL_DIR,
) -> None:
    """Delete old versions; the served one stays."""
    deleted = _store(model_dir).gc(keep)
    typer.echo(f"Deleted: {', '.join(map(str, deleted)) or 'none'}.")


@models.command("verify")
def models_verify(
    version: int,
    studies: Annotated[Path, typer.Option(help="the server's studies folder")],
    retrain: Annotated[bool, typer.Option("--retrain", help="also train it again")] = False,
    model_dir: Annotated[Path, options.MODEL_DIR_OPTION] = options.DEFAULT_MODEL_DIR,
) -> None:
    """Score a version again on its held-out cases, with the labels of that time, and compare."""
    from uncol.datastores.folder import StudiesFolder
    from uncol.datastores.pool import cases_of
    from uncol.settings import Settings
    from uncol.tasks.device import device_of
    from uncol.tasks.scoring import LogReporter
    from uncol.training.verify import verify

    store = _store(model_dir)
    manifest = store.manifest(version)
    pool = StudiesFolder(str(studies), labels=manifest.labels, read_only=True)
    cases = cases_of(pool)
    earlier = {case.name: [label.path for label in pool.history.of(case.name)] for case in cases}
    settings = Settings(labels=manifest.labels, model_dir=model_dir).for_round(device_of(None))
    verification = verify(store, version, cases, earlier, settings, LogReporter(), retrain=retrain)
    _print(verification)
    if not verification.holds:
        raise typer.Exit(1)
    typer.echo(f"Version {version} is what its manifest says.")


def _print(verification: Verification) -> None:
    for name, (then, now) in verification.dice.items():
        typer.echo(f"{name}: Dice {then:.4f} as published, {now:.4f} now")
    for name in verification.changed:
        typer.echo(f"{name}: its label of that time is gone")
    for name, (made_by, here) in verification.packages.items():
        typer.echo(f"{name}: made with {made_by}, {here} is installed; training may differ")
    if verification.weights is not None:
        typer.echo(f"Trained again: weights differ by at most {verification.weights:g}")
    if not (verification.dice or verification.changed or verification.weights is not None):
        typer.echo("Nothing is held out; --retrain compares the weights.")


def _store(model_dir: Path) -> ModelStore:
    from uncol.versions.store import ModelStore

    return ModelStore(model_dir)


def _count(number: int | None) -> str:
    return "" if number is None else str(number)
