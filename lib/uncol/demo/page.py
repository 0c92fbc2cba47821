"""A picture page: one row per case with scan, true label, mask and uncertainty."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from uncol.demo.session import DemoResult
from uncol.types import Array

COLUMNS = ("scan", "true label", "student", "uncertainty")
STYLE = (
    "body{font:15px system-ui;margin:2em auto;max-width:60em}img{width:100%}"
    "td,th{padding:.2em 1em;text-align:left}"
)


def write_page(
    path: Path, results: Sequence[DemoResult], labels: Mapping[str, int], summary: str
) -> Path:
    """Write the page and one picture of its first rows beside it.

    Args:
        path: the HTML file.
        results: cases to show.
        labels: name to value.
        summary: a sentence above the pictures.

    Returns:
        The picture's path.
    """
    rows = "".join(
        f"<h3>{html.escape(r.case)}: Dice {_listed(r.dice)}, "
        f"estimated {r.estimate:.2f}</h3>"
        f'<img alt="{html.escape(r.case)}" src="data:image/png;base64,{_encoded([r], labels)}">'
        for r in results
    )
    title = "UnCoL demo"
    path.write_text(
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
        f"<h1>{title}</h1><p>{html.escape(summary)}</p>{rows}"
    )
    picture = path.with_suffix(".png")
    picture.write_bytes(_png(results[:3], labels))
    return picture


def _listed(dice: Mapping[str, float]) -> str:
    return ", ".join(f"{html.escape(name)} {value:.2f}" for name, value in dice.items())


def _encoded(results: Sequence[DemoResult], labels: Mapping[str, int]) -> str:
    return base64.b64encode(_png(results, labels)).decode()


def _png(results: Sequence[DemoResult], labels: Mapping[str, int]) -> bytes:
    figure = Figure(figsize=(12, 2.9 * len(results)), layout="constrained")
    axes = np.asarray(figure.subplots(len(results), len(COLUMNS), squeeze=False))
    colours = mpl.colormaps["tab10"].resampled(10)
    for row, result in zip(axes, results, strict=True):
        scan, truth, label, unsure = _best_slice(result)
        for axis, title in zip(row, COLUMNS, strict=True):
            axis.imshow(scan.T, origin="lower", cmap="gray")
            axis.set_axis_off()
            axis.set_title(title if title != "scan" else f"{result.case}", fontsize=10)
        for axis, mask in ((row[1], truth), (row[2], label)):
            shown = np.where(mask.T > 0, mask.T - 1.0, np.nan)
            axis.imshow(shown, origin="lower", cmap=colours, vmin=0, vmax=9, alpha=0.55)
        row[3].imshow(unsure.T, origin="lower", cmap="inferno", vmin=0, vmax=1, alpha=0.75)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


def _best_slice(result: DemoResult) -> tuple[Array, Array, Array, Array]:
    """Return the coronal slice with the most truth, as (scan, truth, label, uncertainty)."""
    index = int((result.truth > 0).sum(axis=(0, 2)).argmax())
    volumes = (result.scan, result.truth, result.label, result.uncertainty)
    scan, truth, label, unsure = (np.take(volume, index, axis=1) for volume in volumes)
    return scan, truth, label, unsure
