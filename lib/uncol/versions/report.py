"""What is reported about published versions, on the command line and over REST."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from uncol.errors import UncolError
from uncol.versions.loaded import read_calibration
from uncol.versions.store import ModelStore


class VersionLine(BaseModel):
    """A version in a list; of a damaged one only number and error are known.

    Attributes:
        version: its number.
        served: whether it is served.
        created: UTC time, ISO 8601.
        labeled: number of annotated cases that trained.
        unlabeled: number of cases without annotation that trained.
        held_out: number of cases that judge.
        dice: its mean Dice; None if no case is held out.
        interval: 95 % interval of that mean.
        published: whether the gate let it through.
        gate: why.
        error: why it cannot be read; empty if it can.
    """

    version: int
    served: bool
    created: str = ""
    labeled: int | None = None
    unlabeled: int | None = None
    held_out: int | None = None
    dice: float | None = None
    interval: tuple[float, float] | None = None
    published: bool = False
    gate: str = ""
    error: str = ""


def list_versions(store: ModelStore) -> list[VersionLine]:
    """Return one line per version, oldest first; a damaged one with its error."""
    current = store.current()
    return [_line(store, version, served=version == current) for version in store.versions()]


def _line(store: ModelStore, version: int, *, served: bool) -> VersionLine:
    try:
        manifest = store.manifest(version)
    except UncolError as error:
        return VersionLine(version=version, served=served, error=str(error))
    accuracy, gate = manifest.accuracy, manifest.gate
    return VersionLine(
        version=version,
        served=served,
        created=manifest.created,
        labeled=len(manifest.cases["labeled"]),
        unlabeled=len(manifest.cases["unlabeled"]),
        held_out=len(manifest.cases["held_out"]),
        dice=accuracy.dice if accuracy else None,
        interval=accuracy.interval if accuracy else None,
        published=gate is None or gate.published,
        gate=gate.reason if gate else "",
    )


def show_version(store: ModelStore, version: int) -> dict[str, Any]:
    """Return all that is known about a version, as JSON values.

    Raises:
        RequestError: there is no such version.
        WeightsError: its manifest is damaged.
    """
    store.check(version)
    calibration = read_calibration(store, version)
    return {
        **store.manifest(version).model_dump(mode="json"),
        "served": version == store.current(),
        "calibration": {"source": calibration.source, "cases": calibration.cases},
        "events": [event for event in store.events() if event["version"] == version],
    }
