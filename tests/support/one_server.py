"""What tests ask of a running server over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests


def wait(until: Callable[[], bool], limit_s: float = 400) -> None:
    """Wait until something holds."""
    end = time.monotonic() + limit_s
    while not until():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.5)


def stats(url: str) -> dict[str, Any]:
    """Return the statistics of the running or last training; empty before the first."""
    return requests.get(f"{url}/info/", timeout=60).json()["train_stats"].get("uncol") or {}


def submit(url: str, path: Path, case: str, labels: str) -> None:
    """Submit a label as Slicer does."""
    info = [{"name": name, "idx": i} for i, name in enumerate(labels.split(","), start=1)]
    with path.open("rb") as stream:
        reply = requests.put(
            f"{url}/datastore/label",
            params={"image": case},
            data={"params": json.dumps({"label_info": info})},
            files={"label": (path.name, stream)},
            timeout=60,
        )
    assert reply.ok, reply.text
