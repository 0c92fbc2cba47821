"""From probabilities to voxel maps and one estimate a label (pure)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPSILON = 1e-8


def entropy(probs: Tensor, *, dim: int = 1) -> Tensor:
    """Normalized Shannon entropy in [0, 1] (uncol-method.md section 2.3).

    U = -sum_c p_c log(p_c + 1e-8) / (log C + 1e-8)

    Args:
        probs: probabilities, e.g. `(B, C, I, J, K)`.
        dim: the class axis, which the result lacks.
    """
    classes = probs.shape[dim]
    raw = -(probs * (probs + EPSILON).log()).sum(dim=dim)
    return (raw / (math.log(classes) + EPSILON)).clamp(0.0, 1.0)


def head_disagreement(head_probs: Tensor) -> Tensor:
    """Mutual information between prediction and head, divided by ln C, in [0, 1].

    MI = H(mean_h p_h) - mean_h H(p_h): 0 where the four heads agree, however unsure each is.

    Args:
        head_probs: `(B, H, C, I, J, K)`.

    Returns:
        `(B, I, J, K)`.
    """
    total = entropy(head_probs.mean(dim=1), dim=1)
    own = entropy(head_probs, dim=2).mean(dim=1)
    return (total - own).clamp(0.0, 1.0)


def soft_dice_confidence(probs: Tensor, label: Tensor) -> Tensor:
    """Estimate each label's Dice from one prediction (arXiv:2402.10665).

    SDC_c = 2 sum p_c [label = c] / (sum p_c + sum [label = c])

    Args:
        probs: `(C, I, J, K)`.
        label: `(I, J, K)`, the argmax.

    Returns:
        `(C - 1,)` for the foreground labels; NaN where a label has no voxel at all.
    """
    values = []
    for index in range(1, probs.shape[0]):
        chosen = label == index
        overlap = probs[index][chosen].sum()
        size = probs[index].sum() + chosen.sum()
        values.append(2 * overlap / size if chosen.any() else probs.new_tensor(float("nan")))
    return torch.stack(values) if values else probs.new_zeros(0)
