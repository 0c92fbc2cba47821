"""From a mask to boxes or clicks for the generalized teacher (uncol-method.md section 1.8)."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from uncol.types import Array

MARGIN = 20 / 1024  # the released 20 pixels at 1024, as a share of the view's side


def largest_component(mask: Array, *, corners: bool = False) -> Array:
    """Return the largest component of a bool mask of any dimension.

    Args:
        mask: of any dimension.
        corners: whether voxels that share but a corner hang together; else they share a face.
    """
    structure = ndimage.generate_binary_structure(mask.ndim, mask.ndim if corners else 1)
    parts, count = ndimage.label(mask, structure=structure)
    if count <= 1:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def tight_box(mask: Array, *, margin: float = 0.0) -> Array | None:
    """Return the bounding box of a 2D mask, or None if it is empty.

    Args:
        mask: `(I, J)` bool.
        margin: voxels added on each side, clipped to the image.

    Returns:
        `(i_min, j_min, i_max, j_max)` in voxel-edge coordinates: a single voxel at (3, 5) gives
        (3, 5, 4, 6).
    """
    if not mask.any():
        return None
    low, high = [], []
    for axis in (0, 1):
        filled = np.flatnonzero(mask.any(axis=1 - axis))
        low.append(max(filled[0] - margin, 0))
        high.append(min(filled[-1] + 1 + margin, mask.shape[axis]))
    return np.array([*low, *high], dtype=np.float32)


def filled_box(mask: Array) -> Array:
    """Return the tight bounding box of a bool mask of any dimension, filled; empty if it is."""
    box = np.zeros_like(mask)
    for place in ndimage.find_objects(mask.astype(np.uint8)):
        box[place] = True
    return box


def random_click(
    mask: Array, predicted: Array, *, generator: np.random.Generator
) -> tuple[Array, bool] | None:
    """Return a voxel of the prediction's error and whether it is foreground (stage 1, 3D).

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
    (trap 4): columns are shifted by one, so that a voxel's uncertainty is read at another place,
    and all clicks fall on the same voxel.

    Args:
        mask: `(I, J, K)` bool, a class's pseudo-mask.
        uncertainty: `(I, J, K)`.
        count: clicks wanted.
        released: reproduce trap 4.

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
