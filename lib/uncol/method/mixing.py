"""Bidirectional copy-paste: one random block per sample (docs/method.md section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from uncol.shapes import Block, Valid

BLOCK = 2 / 3  # side of the block as a share of the crop's


def copy_paste_mask(
    batch: int, shape: tuple[int, int, int], *, generator: torch.Generator
) -> Block:
    """Draw M: 1 everywhere but in a random block of two thirds of each side, where it is 0.

    An axis of a single voxel (2D) is covered whole.

    Args:
        batch: number of samples; each gets its own block (difference 7).
        shape: `(I, J, K)` of the crops; the block's origin follows it (the released code
            hard-codes 128).
        generator: source of randomness.

    Returns:
        `(B, 1, I, J, K)` float32.
    """
    mask = torch.ones(batch, 1, *shape)
    for item in mask:
        place = [slice(None)]
        for size in shape:
            side = max(1, int(size * BLOCK))
            start = int(torch.randint(0, size - side + 1, (), generator=generator))
            place.append(slice(start, start + side))
        item[tuple(place)] = 0.0
    return mask


def mix(mask: Block, outside: Tensor, inside: Tensor) -> Tensor:
    """Return `M outside + (1 - M) inside`.

    Args:
        mask: `(B, 1, I, J, K)` of 0 and 1.
        outside: `(B, c, I, J, K)`, or `(B, I, J, K)` for integer labels.
        inside: the same shape.
    """
    keep = mask.bool() if outside.ndim == mask.ndim else mask[:, 0].bool()
    return torch.where(keep, outside, inside)


def pool_mask(mask: Block, grid: tuple[int, int, int]) -> Valid:
    """Bring M to a token grid: the share of each token that lies outside the block."""
    return torch.nn.functional.adaptive_avg_pool3d(mask, grid)
