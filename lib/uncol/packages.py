"""Which versions compute a result: what manifests keep and benchmarks print."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping

from uncol import __version__

PACKAGES = ("torch", "monai", "monailabel", "numpy")


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide a result; `source` for one not installed.

    This package tells its own: after an update of the files alone, what was noted when it was
    installed is no longer true.
    """
    return {name: _version(name) for name in PACKAGES} | {"uncol": __version__}


def report_header(**measured: object) -> dict[str, object]:
    """Return what a benchmark prints first: command, versions, machine, and what it measures.

    Args:
        measured: seed, data and the like, by name.
    """
    header: Mapping[str, object] = {
        "command": " ".join(sys.argv),
        **measured,
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": package_versions(),
    }
    return dict(header)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "source"
