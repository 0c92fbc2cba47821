"""Names for types that many modules use."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
"""A numpy array; shape and values are stated where it is used."""

Shape = tuple[int, int, int]
"""Voxels along I, J and K."""
