"""Specialist and generalist and their uncertainty become one pseudo-label and its trust mask.

docs/method.md sections 2.3 and 2.4. This is the file to change the gate in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from uncol.shapes import Labels, Logits, Mask
from uncol.uncertainty.maps import EPSILON, entropy


@dataclass(frozen=True)
class PseudoLabel:
    """What the student is asked to match where there is no annotation.

    Attributes:
        label: `(B, I, J, K)` class indices.
        trusted: `(B, I, J, K)` bool, False where neither network is sure enough.
        generalist: `(B, I, J, K)` bool, where the generalist passed the gate.
        specialist: `(B, I, J, K)` bool, where the specialist passed it.
    """

    label: Labels
    trusted: Mask
    generalist: Mask
    specialist: Mask


def generalist_probs(
    foreground: Float[Tensor, "b foreground i j k"], *, softmax_over_probabilities: bool = False
) -> Logits:
    """Turn one mask probability per foreground class into class probabilities.

    Args:
        foreground: `(B, C - 1, I, J, K)`, sigmoid of each class's mask logits; 0 for a class that
            was not prompted.
        softmax_over_probabilities: the released softmax, which keeps the generalist out of the gate
            for half of the training (difference 2); else p / sum p.

    Returns:
        `(B, C, I, J, K)`, background first.
    """
    background = (1 - foreground.sum(dim=1, keepdim=True)).clamp_min(0.0)
    everything = torch.cat([background, foreground], dim=1)
    if softmax_over_probabilities:
        return everything.softmax(dim=1)
    return everything / (everything.sum(dim=1, keepdim=True) + EPSILON)


def fuse(
    specialist: Logits,
    generalist: Logits,
    available: Mask,
    *,
    threshold: float,
    seen: Mask | None = None,
) -> PseudoLabel:
    """Fuse specialist and generalist voxel by voxel.

    w_G = e^{-U_G} / (e^{-U_G} + e^{-U_S});  P = w_G p_G + w_S p_S where both pass the gate
    U <= tau, the one that passes where only one does, and nothing where neither does.

    Args:
        specialist: p_S `(B, C, I, J, K)`.
        generalist: p_G, the same shape.
        available: `(B, I, J, K)` bool, where p_G was computed at all; elsewhere the generalist
            does not pass.
        threshold: tau in [0, 1].
        seen: `(B, I, J, K)` bool, the same for p_S and the specialist; None for everywhere.
    """
    unsure_s, unsure_g = entropy(specialist), entropy(generalist)
    trust_s = unsure_s <= threshold
    if seen is not None:
        trust_s = trust_s & seen
    trust_g = (unsure_g <= threshold) & available
    weight_g = torch.sigmoid(unsure_s - unsure_g)  # e^-a / (e^-a + e^-b), written stably
    weight_g = torch.where(trust_g & trust_s, weight_g, trust_g.to(weight_g.dtype)).unsqueeze(1)
    fused = weight_g * generalist + (1 - weight_g) * specialist
    return PseudoLabel(fused.argmax(dim=1), trust_s | trust_g, trust_g, trust_s)
