"""Boxes in a scan, in mm, as clients and records store them. Loads no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class BoxMm(BaseModel):
    """A box in a scan.

    Attributes:
        center_mm: its centre in LPS mm; empty for a box thinner than the scan's voxels.
        size_mm: its sides along L, P, S.
        slice: the slice along K to look at, from 0.
    """

    model_config = ConfigDict(frozen=True)

    center_mm: tuple[float, ...]
    size_mm: tuple[float, ...]
    slice: int


class PlaceMm(BoxMm):
    """A place worth a look, as clients get it.

    Attributes:
        label: name of the label most expected errors concern.
        score: expected number of wrong voxels inside.
    """

    label: str
    score: float
