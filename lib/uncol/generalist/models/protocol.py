"""What every generalist can do, and what passes to and from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Encoded:
    """What the image encoder gives for a batch of views.

    Attributes:
        image: `(B, D, *grid)`, what the prompt decoder needs.
        hidden: states for visual distillation, `(B, width, *grid)` each.
    """

    image: Tensor
    hidden: tuple[Tensor, ...]


@dataclass(frozen=True)
class Prompts:
    """One prompt per class, for one view; coordinates in view pixels.

    Attributes:
        boxes: `(n, 2 * dims)`, lower corner then upper corner, edges; or None.
        clicks: `(n, m, dims)` pixel centres; or None.
        kinds: `(n, m)`, 1 foreground, 0 background; given with clicks.
        memory: `(n, *low)` mask logits of the step before, for generalists that take them.
    """

    boxes: Tensor | None = None
    clicks: Tensor | None = None
    kinds: Tensor | None = None
    memory: Tensor | None = None


@dataclass(frozen=True)
class Prompted:
    """What the prompt decoder gives for one view.

    Attributes:
        logits: `(n, *low)` mask logits; `low` covers the whole view, maybe more coarsely.
        tokens: `(n, D, *grid)` image tokens after the decoder's transformer: the
            prompt-conditioned feature of semantic distillation.
        quality: `(n,)` the decoder's own estimate of IoU.
    """

    logits: Tensor
    tokens: Tensor
    quality: Tensor


class FoundationModel(Protocol):
    """A frozen promptable foundation model.

    Attributes:
        name: its key in the table of generalists.
        dims: 2 (slices) or 3 (cubes).
        side: view size in pixels along each axis.
        hidden_channels: width of each state in `Encoded.hidden`.
        token_channels: width of `Prompted.tokens`.
        takes_boxes: whether boxes are its prompts; else clicks.
        fingerprint: changes whenever weights or preprocessing change; part of the cache's key.
    """

    name: str
    dims: int
    side: int
    hidden_channels: tuple[int, ...]
    token_channels: int
    takes_boxes: bool
    fingerprint: str
    network: Any

    def encode(self, views: Tensor, *, raw: bool = False) -> Encoded:
        """Encode views `(B, 1, *[side] * dims)`, any intensity scale.

        With `raw` the generalist's own intensity normalization is skipped (difference 6).
        """
        ...

    def prompt(self, image: Tensor, prompts: Prompts) -> Prompted:
        """Answer n prompts on one encoded view `(1, D, *grid)`."""
        ...
