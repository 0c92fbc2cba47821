"""Supervised and masked segmentation terms (docs/method.md sections 2.2 and 2.5).

All take logits `(B, C, I, J, K)`, a label `(B, I, J, K)` of class indices and a mask
`(B, I, J, K)` of the voxels that count. A voxel outside the mask gives no gradient, so partial
labels and untrusted pseudo-labels need no case of their own. An empty mask gives 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from uncol.shapes import HeadLogits, Labels, Logits, Mask, Scalar

SMOOTH = 1e-5
FOCAL_GAMMA = 2.0


def cross_entropy(logits: Logits, label: Labels, mask: Mask) -> Scalar:
    """Return sum(m CE) / sum m."""
    return _masked_mean(_voxelwise_cross_entropy(logits, label), mask)


def focal(logits: Logits, label: Labels, mask: Mask) -> Scalar:
    """Return the masked mean of (1 - p)^2 CE."""
    voxelwise = _voxelwise_cross_entropy(logits, label)
    return _masked_mean((1 - (-voxelwise).exp()) ** FOCAL_GAMMA * voxelwise, mask)


def dice(logits: Logits, label: Labels, mask: Mask, *, softmax_twice: bool = False) -> Scalar:
    """Return 1 - Dice with linear denominators, mean over all classes, background included.

    Args:
        logits: `(B, C, I, J, K)`.
        label: `(B, I, J, K)`.
        mask: `(B, I, J, K)`.
        softmax_twice: the released stage-1 behaviour (difference 3).
    """
    overlap, sizes = _overlap(logits, label, mask, softmax_twice=softmax_twice)
    return (1 - (2 * overlap + SMOOTH) / (sizes + SMOOTH)).mean()


def soft_iou(logits: Logits, label: Labels, mask: Mask) -> Scalar:
    """Return 1 - intersection over union, mean over all classes."""
    overlap, sizes = _overlap(logits, label, mask)
    return (1 - (overlap + SMOOTH) / (sizes - overlap + SMOOTH)).mean()


def four_heads(
    logits: HeadLogits, label: Labels, mask: Mask, *, softmax_twice: bool = False
) -> Scalar:
    """Stage 1: L_seg = 1/4 [CE(o1) + Dice(o2) + Focal(o3) + SoftIoU(o4)], one loss per head.

    Args:
        logits: `(B, 4, C, I, J, K)`.
        label: `(B, I, J, K)`.
        mask: `(B, I, J, K)`.
        softmax_twice: see `dice`.
    """
    terms = (
        cross_entropy(logits[:, 0], label, mask),
        dice(logits[:, 1], label, mask, softmax_twice=softmax_twice),
        focal(logits[:, 2], label, mask),
        soft_iou(logits[:, 3], label, mask),
    )
    return torch.stack(terms).mean()


def dice_ce(logits: Logits, label: Labels, mask: Mask) -> Scalar:
    """Stage 2: DC(o, y; m) = MaskedDice + masked CE."""
    return dice(logits, label, mask) + cross_entropy(logits, label, mask)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp_min(1e-16)


def _overlap(
    logits: Tensor, label: Tensor, mask: Tensor, *, softmax_twice: bool = False
) -> tuple[Tensor, Tensor]:
    """Return each class's overlap and summed sizes over the whole batch, both `(C,)`."""
    probs = logits.softmax(dim=1)
    if softmax_twice:
        probs = probs.softmax(dim=1)
    weights = mask.unsqueeze(1).to(probs.dtype)
    target = _one_hot(label, probs.shape[1]).to(probs.dtype) * weights
    probs = probs * weights
    return _sum_voxels(probs * target), _sum_voxels(probs) + _sum_voxels(target)


def _voxelwise_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Return -log p of the labeled class, `(B, I, J, K)`.

    A masked sum, because torch's `nll_loss` takes 35 ms per call for this layout on two cores.
    """
    log_probs = logits.log_softmax(dim=1)
    return -torch.where(_one_hot(label, logits.shape[1]), log_probs, 0.0).sum(dim=1)


def _one_hot(label: Tensor, classes: int) -> Tensor:
    """Return `(B, C, I, J, K)` bool; a comparison keeps it contiguous, `F.one_hot` does not."""
    values = torch.arange(classes, device=label.device).view(1, -1, *([1] * (label.ndim - 1)))
    return label.unsqueeze(1) == values


def _sum_voxels(values: Tensor) -> Tensor:
    """Sum `(B, C, I, J, K)` over items and voxels to `(C,)`, the long axis first."""
    return values.flatten(2).sum(dim=2).sum(dim=0)
