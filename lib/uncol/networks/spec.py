"""The sizes of a student: what a preset fixes and a manifest keeps. Loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

Strides = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class StudentSpec:
    """The sizes of a student.

    Attributes:
        dims: 2 (slices) or 3.
        channels: CNN channels from full size to bottleneck.
        strides: down-sampling between levels along I, J, K (K is 1 in 2D).
        prior_dim: token width of the prior encoder.
        prior_depth: its number of blocks.
        prior_heads: its attention heads.
        prior_head_dim: the width of each head.
        prior_mlp: hidden width of its feed-forward part.
    """

    dims: int
    channels: tuple[int, ...]
    strides: Strides
    prior_dim: int
    prior_depth: int
    prior_heads: int
    prior_head_dim: int
    prior_mlp: int

    @property
    def patch(self) -> tuple[int, int, int]:
        """Total down-sampling along I, J, K; also the prior encoder's patch."""
        along_i, along_j, along_k = (math.prod(steps) for steps in zip(*self.strides, strict=True))
        return (along_i, along_j, along_k)
