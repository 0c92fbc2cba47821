"""The prompt-free student: CNN, prior encoder, cross-attention between them, four heads.

docs/method.md sections 1.2 to 1.5. Only this network is deployed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from uncol.networks.backbones import UNet, VNet
from uncol.networks.prior import PriorEncoder
from uncol.networks.spec import StudentSpec

HEADS = 4


@dataclass(frozen=True)
class StudentOutput:
    """What one forward pass gives.

    Attributes:
        logits: `(B, 4, C, I, J, K)`, one set of logits per head.
        prior: `(B, D, *tokens)`, the prior feature `s_prior` (`tokens` has three axes).
        hidden: the prior encoder's block outputs, `(B, prior_dim, *tokens)` each.
    """

    logits: Tensor
    prior: Tensor
    hidden: list[Tensor]

    @property
    def mean_logits(self) -> Tensor:
        """Mean of the heads' logits `(B, C, I, J, K)` (section 6)."""
        return self.logits.mean(dim=1)


class CrossAttention(nn.Module):
    """Queries from bottleneck, keys and values from knowledge (section 1.4, in effect one head)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        self.scale = (channels / 4) ** -0.5

    def forward(self, bottleneck: Tensor, knowledge: Tensor) -> Tensor:
        """Add what attention finds in `knowledge` `(B, D, *grid)` to `bottleneck`, same shape."""
        tokens = bottleneck.flatten(2).transpose(1, 2)  # (B, N, D)
        known = knowledge.flatten(2).transpose(1, 2)
        weights = self.query(tokens) @ self.key(known).transpose(1, 2) * self.scale
        attended = self.out(weights.softmax(dim=-1) @ self.value(known))
        return torch.add(bottleneck, attended.transpose(1, 2).reshape(bottleneck.shape))


class Student(nn.Module):
    """U-Net or V-Net with a prior encoder at its bottleneck and four heads."""

    def __init__(self, spec: StudentSpec, classes: int, *, dropout: bool = True) -> None:
        """Build a student.

        Args:
            spec: its sizes.
            classes: number of classes, background included.
            dropout: whether training drops features of the 2D encoder, as the paper's does.
        """
        super().__init__()
        self.spec = spec
        self.classes = classes
        width = spec.channels[-1]
        flat = spec.dims == 2
        self.backbone = (
            UNet(spec.channels, dropout=dropout) if flat else VNet(spec.channels, spec.strides)
        )
        self.prior = PriorEncoder(
            patch=spec.patch[: spec.dims],
            dim=spec.prior_dim,
            depth=spec.prior_depth,
            heads=spec.prior_heads,
            head_dim=spec.prior_head_dim,
            mlp_dim=spec.prior_mlp,
            out_channels=width,
            neck=flat,
        )
        self.attention = CrossAttention(width)
        self.heads = nn.ModuleList(
            self.backbone.make_head(spec.channels[0], classes) for _ in range(HEADS)
        )

    def forward(
        self, image: Tensor, knowledge: Callable[[Tensor], Tensor] | None = None
    ) -> StudentOutput:
        """Segment a batch.

        Args:
            image: `(B, 1, I, J, K)`, sizes multiples of `spec.patch`; `K = 1` for a 2D student.
            knowledge: maps `s_prior` to what the decoder consumes, both `(B, D, *tokens)`;
                stage 1 puts the generalist's feature in here. None: the decoder consumes the prior
                itself.
        """
        flat = self.spec.dims == 2
        view = image[..., 0] if flat else image
        levels = self.backbone.encode(view)
        prior, hidden = self.prior(view)
        if flat:
            prior, hidden = prior[..., None], [block[..., None] for block in hidden]
        known = prior if knowledge is None else knowledge(prior)
        fused = self.attention(levels[-1], known[..., 0] if flat else known)
        features = self.backbone.decode(fused, levels)
        logits = torch.stack([head(features) for head in self.heads], dim=1)
        return StudentOutput(logits[..., None] if flat else logits, prior, hidden)


def parameter_count(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
