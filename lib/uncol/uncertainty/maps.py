"""From probabilities to voxel maps and one estimate per label (pure).

All functions walk the class axis one class at a time, so that a map costs the memory of a map and
not of another probability volume.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from uncol.shapes import ClassProbs, LabelMap

EPSILON = 1e-8
NEAR = 5  # voxels around a label that count for its confidence and for calibration


def entropy(probs: Tensor, *, dim: int = 1) -> Tensor:
    """Normalized Shannon entropy in [0, 1] (docs/method.md section 2.3).

    U = -sum_c p_c log(p_c + 1e-8) / (log C + 1e-8)

    Args:
        probs: probabilities, e.g. `(B, C, I, J, K)`.
        dim: the class axis, which the result lacks.
    """
    total = torch.zeros_like(probs.select(dim, 0))
    for one in probs.unbind(dim):
        total = total - one * (one + EPSILON).log()
    return (total / (math.log(probs.shape[dim]) + EPSILON)).clamp(0.0, 1.0)


def head_disagreement(head_probs: Float[Tensor, "b h c i j k"]) -> Float[Tensor, "b i j k"]:
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


def most_probable(probs: Iterable[Tensor]) -> Tensor:
    """Return the most probable class `(I, J, K)` uint8; ties go to the first.

    Args:
        probs: a map `(I, J, K)` per class: a tensor `(C, I, J, K)`, or maps made one at a time.
    """
    classes = iter(probs)
    best = next(classes)
    label = torch.zeros(best.shape, dtype=torch.uint8)
    for index, candidate in enumerate(classes, start=1):
        better = candidate > best
        label[better] = index
        best = torch.where(better, candidate, best)
    return label


def temper_(probs: Tensor, label: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Temper probabilities in place, each voxel by the temperature of its label.

    p_c <- p_c^(1/T) / sum_k p_k^(1/T), T = temperatures[label] (Guo et al., ICML 2017, with one
    temperature per predicted label). The order of the classes at a voxel never changes.

    Args:
        probs: `(C, ...)`, changed.
        label: `(...)`, the most probable class.
        temperatures: one per class, background first; above 0.
    """
    if all(value == 1.0 for value in temperatures):
        return probs
    power = (1.0 / torch.tensor(temperatures, dtype=probs.dtype))[label.long()]
    total = torch.zeros_like(power)
    for one in probs.unbind(0):
        one.clamp_(min=EPSILON).pow_(power)
        total += one
    for one in probs.unbind(0):
        one.div_(total)
    return probs


def soft_dice_confidence(probs: ClassProbs, label: LabelMap) -> Float[Tensor, " foreground"]:
    """Estimate each label's Dice from one prediction (arXiv:2402.10665), near the label.

    SDC_c = 2 sum_near p_c [label = c] / (sum_near p_c + sum [label = c])

    The sums stop 5 voxels from the label: the little probability that a network leaves everywhere
    adds up with the field of view and says nothing about the mask.

    Args:
        probs: `(C, I, J, K)`.
        label: `(I, J, K)`, the argmax.

    Returns:
        `(C - 1,)` for the foreground labels; NaN where a label has no voxel at all.
    """
    values = []
    for index in range(1, probs.shape[0]):
        chosen = label == index
        around = near(chosen)
        overlap = probs[index][chosen].sum()
        size = probs[index][around].sum() + chosen.sum()
        values.append(2 * overlap / size if chosen.any() else probs.new_tensor(float("nan")))
    return torch.stack(values) if values else probs.new_zeros(0)


def near(mask: Bool[Tensor, "i j k"]) -> Bool[Tensor, "i j k"]:
    """Return the voxels `(I, J, K)` within 5 voxels of a mask along every axis: a cube."""
    grown = ndimage.maximum_filter(mask.numpy().view(np.uint8), 2 * NEAR + 1, mode="constant")
    return torch.from_numpy(grown > 0)
