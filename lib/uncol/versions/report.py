"""What is told of published versions, on the command line and over REST."""

from __future__ import annotations

from typing import Any

from uncol.errors import UncolError
from uncol.versions.loaded import read_calibration
from uncol.versions.store import ModelStore


def list_versions(store: ModelStore) -> list[dict[str, Any]]:
    """Return a line a version, oldest first; a damaged one with its error."""
    current = store.current()
    lines = []
    for version in store.versions():
        try:
            manifest = store.manifest(version)
        except UncolError as error:
            lines.append({"version": version, "served": version == current, "error": str(error)})
            continue
        accuracy, gate = manifest.accuracy, manifest.gate
        lines.append(
            {
                "version": version,
                "served": version == current,
                "created": manifest.created,
                "labeled": len(manifest.cases["labeled"]),
                "unlabeled": len(manifest.cases["unlabeled"]),
                "held_out": len(manifest.cases["held_out"]),
                "dice": accuracy.dice if accuracy else None,
                "interval": accuracy.interval if accuracy else None,
                "published": gate is None or gate.published,
                "gate": gate.reason if gate else "",
            }
        )
    return lines


def show_version(store: ModelStore, version: int) -> dict[str, Any]:
    """Return all that is known of a version.

    Raises:
        RequestError: there is no such version.
        WeightsError: its manifest is damaged.
    """
    store.check(version)
    calibration = read_calibration(store, version)
    return {
        **store.manifest(version).model_dump(),
        "served": version == store.current(),
        "calibration": {"source": calibration.source, "cases": calibration.cases},
        "events": [one for one in store.events() if one["version"] == version],
    }
