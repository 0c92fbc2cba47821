"""Dual-path distillation: visual and semantic terms (docs/method.md sections 1.7 and 2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from uncol.shapes import Scalar, Tokens, Valid


class Adapters(nn.Module):
    """Training-only projections from the generalist's width to the student's.

    One projection serves all generalist states of one width, so a plain ViT shares a single one, as
    released. Never deployed.
    """

    def __init__(
        self,
        *,
        hidden_channels: Sequence[int],
        token_channels: int,
        foreground: int,
        student_dim: int,
        student_width: int,
    ) -> None:
        """Build the projections.

        Args:
            hidden_channels: channels of each generalist state that is distilled.
            token_channels: channels of the generalist's prompt-conditioned tokens, per class.
            foreground: number of foreground classes.
            student_dim: token width of the student's prior encoder.
            student_width: channels of `s_prior`.
        """
        super().__init__()
        self.visual = nn.ModuleDict(
            {
                str(width): nn.Conv3d(width, student_dim, 1, bias=False)
                for width in sorted(set(hidden_channels))
            }
        )
        self.semantic = nn.Conv3d(token_channels * foreground, student_width, 1, bias=False)

    def project_hidden(self, hidden: Tensor) -> Tensor:
        """Map a generalist state `(B, width, *tokens)` to `(B, student_dim, *tokens)`."""
        projected: Tensor = self.visual[str(hidden.shape[1])](hidden)
        return projected


def student_blocks(generalist_states: int, depth: int) -> range:
    """Return which student block learns from each generalist state.

    2D pairs blocks 1 and 2 of 4, 3D blocks 0, 1 and 2, as released.
    """
    first = max(0, min(1, depth - generalist_states)) if generalist_states < 3 else 0
    return range(first, min(first + generalist_states, depth))


def visual(projected: Sequence[Tensor], student: Sequence[Tensor], valid: Valid) -> Scalar:
    """Return L_vis = 1/n sum_l MSE(proj(h_T), h_S).

    Args:
        projected: n projected generalist states `(B, d, *tokens)`; gradient reaches the projection.
        student: the n matching student blocks.
        valid: `(B, 1, *tokens)` in [0, 1], where the generalist was computed; 0 elsewhere.
    """
    terms = [masked_mse(t, s, valid) for t, s in zip(projected, student, strict=True)]
    return torch.stack(terms).mean()


def masked_mse(first: Tokens, second: Tokens, valid: Valid) -> Scalar:
    """Return the mean square difference over valid tokens; 0 if there are none."""
    weights = valid.to(first.dtype)
    square = ((first - second) ** 2).mean(dim=1, keepdim=True)
    return (square * weights).sum() / weights.sum().clamp_min(1e-16)


def knowledge(semantic: Tokens, prior: Tokens, valid: Valid) -> Tokens:
    """Return what the decoder consumes in stage 1: the generalist's feature where there is one.

    Tokens that the generalist did not see keep the student's own prior.
    """
    return valid * semantic + (1 - valid) * prior
