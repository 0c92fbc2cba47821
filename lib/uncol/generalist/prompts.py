"""From a mask to boxes or clicks for the generalist (docs/method.md section 1.8)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from uncol.types import Array

MARGIN = 20 / 1024  # the released 20 pixels at 1024, as a share of the view's side


def random_click(
    mask: Array, predicted: Array, *, generator: np.random.Generator
) -> tuple[Array, bool] | None:
    """Return a random wrong voxel of a prediction, and whether it is foreground (stage 1, 3D).

    Args:
        mask: `(I, J, K)` bool, the truth.
        predicted: the same shape, bool.
        generator: source of randomness.

    Returns:
        The voxel `(3,)` and True for a missed, False for a wrongly marked one; None when the
        prediction is right everywhere.
    """
    wrong = np.argwhere(mask != predicted)
    if len(wrong) == 0:
        return None
    voxel = wrong[generator.integers(len(wrong))]
    return voxel, bool(mask[tuple(voxel)])


def certain_clicks(
    mask: Tensor, uncertainty: Tensor, count: int, *, released: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the least uncertain voxels of a pseudo-mask as clicks (stage 2, 3D).

    If the mask is empty, the least uncertain background voxels are negative clicks. Released
    (difference 4): columns are shifted by one, so that a voxel's uncertainty is read at another
    place, and all clicks fall on the same voxel.

    Args:
        mask: `(I, J, K)` bool, a class's pseudo-mask.
        uncertainty: `(I, J, K)`.
        count: how many clicks are wanted.
        released: reproduce difference 4.

    Returns:
        Voxels `(n, 3)` and their kind `(n,)`, 1 foreground, 0 background; n may be under `count`.
    """
    positive = bool(mask.any())
    region = mask if positive else ~mask
    voxels = region.nonzero()
    if released:
        # entropy_map[i, channel, x, y]: the channel (0) stands where I belongs
        values = uncertainty[
            0 * voxels[:, 0],
            voxels[:, 0] % uncertainty.shape[1],
            voxels[:, 1] % uncertainty.shape[2],
        ]
        chosen = voxels[values.argmin()].expand(count, 3)
    else:
        values = uncertainty[region]
        best = values.topk(min(count, len(values)), largest=False).indices
        chosen = voxels[best]
    return chosen, torch.full((len(chosen),), int(positive))
