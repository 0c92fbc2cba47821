"""Options that several commands share, and how their values are parsed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from uncol.selection.strategies import STRATEGIES
from uncol.settings import CHOICES, Settings, parse_settings

if TYPE_CHECKING:
    from uncol.round_settings import RoundSettings

Number = TypeVar("Number", int, float)
TEST = 40  # cases that judge, where there are enough
STRATEGY_NAMES = tuple(STRATEGIES)
DEFAULT_MODEL_DIR: Path = Settings().model_dir


STUDIES_OPTION = typer.Option(help="folder with images/ and labels/ of the same file names")
LABELS_OPTION = typer.Option(help='names of the label values 1, 2, ...: "a,b"')
MODEL_DIR_OPTION = typer.Option(help="the app's model_dir")
PRESET_OPTION = typer.Option(help=f"the student's size: {', '.join(CHOICES['preset'])}")
GENERALIST_OPTION = typer.Option(
    "--teacher", help=f"the generalist: {', '.join(CHOICES['teacher'])}"
)
PATIENT_OPTION = typer.Option(
    help="regular expression: a file name's patient, if scans share patients"
)
STEP_SCALE_OPTION = typer.Option(help="multiplies the planned steps")


def numbers(text: str) -> tuple[int, ...]:
    """Return whole numbers separated by commas.

    Raises:
        typer.BadParameter: something else is between the commas.
    """
    return _listed(text, int, "whole numbers")


def decimals(text: str) -> tuple[float, ...]:
    """Return decimal numbers separated by commas.

    Raises:
        typer.BadParameter: something else is between the commas.
    """
    return _listed(text, float, "numbers")


def _listed(text: str, kind: Callable[[str], Number], what: str) -> tuple[Number, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not a list of {what}") from error


def round_of(
    labels: str, preset: str, generalist: str, step_scale: float, *, device: str | None = None
) -> RoundSettings:
    """Return the settings of an experiment's rounds.

    Raises:
        SettingsError: a value is not allowed.
        RequestError: there is no such device.
    """
    from uncol.tasks.device import device_of

    settings, _ = parse_settings({"labels": labels, "preset": preset, "teacher": generalist})
    return replace(settings.for_round(device_of(device)), step_scale=step_scale)
