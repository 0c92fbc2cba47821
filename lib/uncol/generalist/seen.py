"""What the generalist has seen of a case, and where that lies in the scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from uncol.generalist.letterbox import Letterbox, plane_axes
from uncol.types import Array, Shape


@dataclass(frozen=True)
class Views:
    """Which views of a case the generalist has seen, and where they lie.

    Attributes:
        axis: slice axis; None for a 3D generalist, whose single view is the whole scan.
        indices: slices along it, evenly spread; `[0]` for a 3D generalist.
        box: the way between the region and a view.
        size: the case's working shape.
    """

    axis: int | None
    indices: list[int]
    box: Letterbox
    size: Shape

    @property
    def extent(self) -> Array:
        """Voxels along I, J, K that a stack of views covers, padding included."""
        if self.axis is None:
            return self.box.extent
        covered = np.array(self.size, dtype=float)
        covered[list(plane_axes(self.axis))] = self.box.extent
        return covered

    def stack(self, maps: Tensor) -> Tensor:
        """Bring maps of the views `(n, w, *grid)` to one volume `(w, a, b, c)`."""
        if self.axis is None:
            return maps[0]
        return maps.movedim(0, -1).movedim(-1, self.axis + 1)  # (w, g, g) with n at the slice axis


@dataclass
class Seen:
    """What the generalist knows about a case.

    Attributes:
        views: its views.
        hidden: stacked states `(w, a, b, c)` each, float16.
        semantic: stacked prompt-conditioned tokens, classes concatenated; None before prompting.
        probs: `(C - 1, n, p, q)` float16 of the views' slices; None before prompting.
        lookup: `(slices,)`, slice index to row of `probs`, -1 where there is none.
    """

    views: Views
    hidden: tuple[Tensor, ...]
    semantic: Tensor | None
    probs: Tensor | None
    lookup: Tensor
