"""The student's prior encoder: a SimpleViT with fixed sine-cosine positions.

Follows docs/method.md sections 1.2 and 1.3 (Beyer et al. 2022, "Better plain ViT baselines").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, both residual, no dropout."""

    def __init__(self, dim: int, *, heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `(B, N, dim)` to `(B, N, dim)`."""
        qkv = self.to_qkv(self.norm(tokens))
        query, key, value = rearrange(
            qkv, "b n (three h d) -> three b h n d", three=3, h=self.heads
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.to_out(rearrange(attended, "b h n d -> b n (h d)"))
        return torch.add(tokens, self.feed_forward(tokens))


class PriorEncoder(nn.Module):
    """Image to prior feature `s_prior` and the block outputs that visual distillation uses."""

    def __init__(
        self,
        *,
        patch: tuple[int, ...],
        dim: int,
        depth: int,
        heads: int,
        head_dim: int,
        mlp_dim: int,
        out_channels: int,
        neck: bool,
    ) -> None:
        """Build the encoder.

        Args:
            patch: patch size along each image axis; its length is the number of axes.
            dim: token width.
            depth: number of blocks.
            heads: attention heads.
            head_dim: width of a head.
            mlp_dim: hidden width of the feed-forward part.
            out_channels: channels of `s_prior`.
            neck: whether a convolutional neck (2D, as SAM's) follows the blocks.
        """
        super().__init__()
        self.patch = patch
        values = int(torch.tensor(patch).prod())
        self.embed = nn.Sequential(nn.LayerNorm(values), nn.Linear(values, dim), nn.LayerNorm(dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, heads=heads, head_dim=head_dim, mlp_dim=mlp_dim)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.neck: nn.Module
        if neck:
            self.neck = nn.Sequential(
                nn.Conv2d(dim, out_channels, 1, bias=False),
                nn.GroupNorm(1, out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                nn.GroupNorm(1, out_channels),
            )
        else:
            if dim != out_channels:
                raise ValueError(f"without a neck, dim ({dim}) must be {out_channels}")
            self.neck = nn.Identity()

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode an image.

        Args:
            image: `(B, 1, *size)`, each size a multiple of the patch.

        Returns:
            `s_prior` `(B, out_channels, *grid)` and each block's output `(B, dim, *grid)`.
        """
        grid = [size // p for size, p in zip(image.shape[2:], self.patch, strict=True)]
        tokens = self.embed(_patches(image, grid, self.patch))
        tokens = tokens + sincos_positions(grid, tokens.shape[-1], tokens.device)
        hidden = []
        for block in self.blocks:
            tokens = block(tokens)
            hidden.append(_to_grid(tokens, grid))
        return self.neck(_to_grid(self.norm(tokens), grid)), hidden


def sincos_positions(grid: list[int], dim: int, device: torch.device) -> Tensor:
    """Return fixed positions `(N, dim)`: a sine and a cosine part for each axis.

    Args:
        grid: tokens along each axis.
        dim: token width; what is left when it does not divide evenly stays 0.
        device: where the result is made.
    """
    axes = len(grid)
    waves = dim // (2 * axes)
    omega = 1.0 / 10000 ** (torch.arange(waves, device=device) / max(waves - 1, 1))
    places = torch.meshgrid(*(torch.arange(n, device=device) for n in grid), indexing="ij")
    parts = [place.flatten()[:, None] * omega for place in places]
    waved = torch.cat([f(part) for part in parts for f in (torch.sin, torch.cos)], dim=1)
    return F.pad(waved, (0, dim - waved.shape[1]))


def _patches(image: Tensor, grid: list[int], patch: tuple[int, ...]) -> Tensor:
    if len(patch) == 2:
        return rearrange(
            image, "b c (i p) (j q) -> b (i j) (p q c)", i=grid[0], j=grid[1], p=patch[0]
        )
    return rearrange(
        image,
        "b c (i p) (j q) (k r) -> b (i j k) (p q r c)",
        i=grid[0],
        j=grid[1],
        k=grid[2],
        p=patch[0],
        q=patch[1],
    )


def _to_grid(tokens: Tensor, grid: list[int]) -> Tensor:
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)
