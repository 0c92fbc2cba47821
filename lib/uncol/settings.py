"""Settings from `--conf` pairs, read once, all mistakes reported together.

The choices come from the registries themselves: generalists, presets, recipes. Loads no torch, so
that the command line can list them.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from uncol.data.names import fold
from uncol.errors import SettingsError, why
from uncol.generalist.models import GENERALISTS, NO_GENERALIST
from uncol.method.recipe import RECIPES
from uncol.round_settings import RoundSettings
from uncol.storage.model_folder import ModelFolder
from uncol.training.presets import PRESETS

if TYPE_CHECKING:
    import torch

Modality = Literal["auto", "ct", "mr"]
PacsResults = Literal["asked", "scored"]
OnePiece = Literal["auto", "off"]
IdleTraining = Literal["off", "on"]

RESERVED = ("background", "review_high", "review_medium", "reviewed")
MAX_LABELS = 250  # OHIF and uint8 results leave room for no more, review bands included
REPOSITORY = Path(__file__).resolve().parents[2]
CHOICES: dict[str, tuple[str, ...]] = {
    "preset": ("auto", *PRESETS),
    "teacher": (*GENERALISTS, NO_GENERALIST),
    "mode": tuple(RECIPES),
    "modality": get_args(Modality),
    "pacs_results": get_args(PacsResults),
    "one_piece": get_args(OnePiece),
    "idle_training": get_args(IdleTraining),
}
NUMBERS = {
    "max_upload_mb": (1, 2**20),
    "cache_gb": (1, 2**20),
    "idle_after_s": (1, 2**20),
}  # least and most
ACCESS = ("allowed_hosts", "allowed_origins", "token_issuer", "token_audience")
KNOWN = ("labels", *CHOICES, *NUMBERS, "teacher_weights", "model_dir", "patient", *ACCESS)
# settings of MONAI Label's own apps, which their users pass from habit
HABITS = frozenset(
    {
        *("models", "preload", "network", "bundles", "heuristic_planner", "use_pretrained_model"),
        *("skip_scoring", "skip_strategies", "skip_trainers", "skip_infers", "scribbles", "sam2"),
        *("tracking", "tracking_uri", "tracking_experiment_name", "auto_update_scoring"),
        *("epistemic_enabled", "epistemic_samples", "target_spacing", "spatial_size", "roi_size"),
        *("zoo_source", "zoo_repo", "server_mode"),
    }
)


class Settings(BaseModel):
    """What the app was started with; users know the generalist as `teacher`.

    Attributes:
        labels: the app's labels, name to value 1...N without gaps.
        preset: the student's size.
        generalist: its name.
        generalist_weights: a weights file for it, or None for the usual one.
        mode: a key of `RECIPES`.
        modality: how intensities are normalized, and which series of a PACS count as scans.
        pacs_results: when the student's label and map are stored in the PACS: when a request asks
            for it, or also whenever a case has been scored.
        one_piece: whether predictions keep only one piece of a label, or of all labels
            together, that is a single piece in every annotated scan; for versions trained from now
            on.
        idle_training: whether the served student goes on learning while nobody works.
        idle_after_s: seconds without a request after which nobody works.
        model_dir: where versions, caches and downloaded weights are kept.
        max_upload_mb: size of the largest upload, in MiB.
        cache_gb: most GiB on disk for the generalist's embeddings, and again for prepared scans.
        allowed_hosts: further names by which browsers know the server, as behind a proxy.
        allowed_origins: addresses of other web applications that may use the server.
        patient: regular expression that finds the patient's name in a case's name; empty if every
            case is another patient's.
        token_issuer: what tokens must name as their issuer; by default what the realm says.
        token_audience: for which client tokens must be made; by default
            `MONAI_LABEL_AUTH_CLIENT_ID`.
    """

    model_config = ConfigDict(frozen=True)

    labels: dict[str, int] = {"target": 1}
    preset: str = "auto"
    generalist: str = Field(
        default="litemedsam", validation_alias=AliasChoices("generalist", "teacher")
    )
    generalist_weights: Path | None = Field(
        default=None, validation_alias=AliasChoices("generalist_weights", "teacher_weights")
    )
    mode: str = "intended"
    modality: Modality = "auto"
    pacs_results: PacsResults = "asked"
    one_piece: OnePiece = "auto"
    idle_training: IdleTraining = "off"
    idle_after_s: int = 300
    model_dir: Path = REPOSITORY / "model"
    max_upload_mb: int = 2048
    cache_gb: int = 50
    patient: str = ""
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    token_issuer: str | None = None
    token_audience: str | None = None

    @property
    def folder(self) -> ModelFolder:
        """Where everything lies in `model_dir`."""
        return ModelFolder(self.model_dir)

    def for_round(self, device: torch.device) -> RoundSettings:
        """Return the settings that rounds and surveys use."""
        return RoundSettings(
            labels=self.labels,
            preset=self.preset,
            generalist=self.generalist,
            generalist_weights=self.generalist_weights,
            mode=self.mode,
            modality=self.modality,
            model_dir=self.model_dir,
            device=device,
            cache_gb=self.cache_gb,
            one_piece=self.one_piece == "auto",
        )


def parse_settings(conf: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Read `--conf` pairs.

    Args:
        conf: the pairs, all values strings.

    Returns:
        The settings, and notes for the log about what was ignored or left at a default that
        probably should not be.

    Raises:
        SettingsError: one or more pairs are wrong; the message lists every one.
    """
    mistakes = [_unknown(key) for key in conf if key not in KNOWN and key not in HABITS]
    values: dict[str, object] = {}
    for key, parse in PARSERS.items():
        if key in conf:
            try:
                values[key] = parse(conf[key])
            except ValueError as error:
                mistakes.append(f"{key}: {error}")
    if mistakes:
        listed = "\n".join(f"  - {mistake}" for mistake in mistakes)
        raise SettingsError(f"Mistakes in the settings (--conf):\n{listed}")
    return Settings.model_validate(values), _notes(conf)


def _notes(conf: Mapping[str, str]) -> list[str]:
    notes = [
        f"--conf {key}: accepted, but does nothing in this app."
        for key in sorted(set(conf) & HABITS - {"server_mode"})
    ]
    if "labels" not in conf:
        notes.append(
            "No labels given, so there is one, called 'target'. Name yours with "
            '--conf labels "liver,spleen".'
        )
    return notes


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, KNOWN, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(KNOWN)}."
    return f"{key}: unknown setting; {hint}"


def _one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"'{text}' is not one of {', '.join(allowed)}.")
        return text

    return parse


def _whole_number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isdecimal() and least <= int(text) <= most):
            raise ValueError(f"'{text}' is not a whole number from {least} to {most}.")
        return int(text)

    return parse


def _labels(text: str) -> dict[str, int]:
    labels = _from_json(text) if text.lstrip().startswith("{") else _from_names(text)
    _check_names(labels)
    whole = all(type(value) is int for value in labels.values())
    if not whole or sorted(labels.values()) != list(range(1, len(labels) + 1)):
        raise ValueError(
            f"values must be whole numbers, 1 to {len(labels)} without gaps (Slicer numbers "
            f"segments by position), got {list(labels.values())}."
        )
    if len(labels) > MAX_LABELS:
        raise ValueError(f"{len(labels)} labels; at most {MAX_LABELS} are possible.")
    return dict(sorted(labels.items(), key=lambda item: item[1]))


def _check_names(labels: Mapping[str, int]) -> None:
    if not labels or not all(isinstance(n, str) and n.strip() for n in labels):
        raise ValueError('at least one name is needed, none of them empty: "a,b".')
    reserved = [n for n in labels if fold(n) in RESERVED]
    if reserved:
        raise ValueError(f"'{reserved[0]}' is reserved; list only the structures to segment.")
    _check_alike(list(labels))


def _check_alike(labels: list[str]) -> None:
    if any("\\" in name for name in labels):
        raise ValueError("a backslash parts values in DICOM; no name can hold one.")
    alike = [name for name in labels if [fold(n) for n in labels].count(fold(name)) > 1]
    if alike:
        raise ValueError(
            f"'{alike[0]}' and '{alike[1]}' are one name: capitals, blanks and underscores do not "
            "tell labels apart."
        )


def _from_json(text: str) -> dict[str, int]:
    try:
        labels: dict[str, int] = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f'not JSON ({error}); write "a,b" or {{"a":1,"b":2}}.') from None
    return labels


def _from_names(text: str) -> dict[str, int]:
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) != len(names):
        raise ValueError("a name appears twice.")
    return {name: value for value, name in enumerate(names, start=1)}


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {text}.")
    return path


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    if any("*" in name or "/" in name for name in names):
        raise ValueError('host names like "label.hospital.org", separated by commas; no "*".')
    return names


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(one.strip().rstrip("/").lower() for one in text.split(",") if one.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path:
            raise ValueError(f'"{origin}" is not an address like "https://viewer.hospital.org".')
    return origins


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"'{text}' is no regular expression: {why(error)}.") from None
    return text


PARSERS: dict[str, Callable[[str], object]] = {
    **{key: _one_of(allowed) for key, allowed in CHOICES.items()},
    **{key: _whole_number(*bounds) for key, bounds in NUMBERS.items()},
    "labels": _labels,
    "teacher_weights": _file,
    "model_dir": _folder,
    "patient": _pattern,
    "allowed_hosts": _names,
    "allowed_origins": _origins,
    "token_issuer": str,
    "token_audience": str,
}
