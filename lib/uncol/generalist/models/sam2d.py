"""What LiteMedSAM and MedSAM share: SAM's prompt encoder and mask decoder on square slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from uncol.generalist.models.hooks import decode, kept_outputs
from uncol.generalist.models.protocol import Encoded, Prompted, Prompts
from uncol.networks.arithmetic import fast_arithmetic

SAM_2D_PREPROCESSING = "min-max, 3 channels, v1"


class Sam2D:
    """A SAM-shaped network as a generalist; see `FoundationModel`."""

    dims = 2
    token_channels = 256
    takes_boxes = True

    def __init__(
        self,
        network: Any,
        *,
        name: str,
        side: int,
        states: Sequence[nn.Module],
        hidden_channels: tuple[int, ...],
        fingerprint: str,
    ) -> None:
        """Wrap a network with `image_encoder`, `prompt_encoder` and `mask_decoder`.

        Args:
            network: the network, weights loaded.
            name: the generalist's name.
            side: input size.
            states: the encoder's modules whose outputs are distilled.
            hidden_channels: their widths.
            fingerprint: identity of the weights.
        """
        # channels last and bfloat16 take LiteMedSAM's encoder from 1.0 to 0.4 s on two AMX cores
        self.network: Any = network.eval().requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)
        self.name = name
        self.side = side
        self.hidden_channels = hidden_channels
        self.fingerprint = f"{fingerprint}; {SAM_2D_PREPROCESSING}"
        self._states = states

    @torch.no_grad()
    def encode(self, views: Tensor, *, raw: bool = False) -> Encoded:
        """Encode `(B, 1, side, side)`; each view is scaled to [0, 1] and put on 3 channels."""
        with kept_outputs(self._states) as states, fast_arithmetic(views.device):
            colour = (views if raw else _unit(views)).expand(-1, 3, -1, -1)
            image = self.network.image_encoder(colour.contiguous(memory_format=torch.channels_last))
        return Encoded(image.float(), tuple(_as_grid(state).float() for state in states))

    @torch.no_grad()
    def prompt(self, image: Tensor, prompts: Prompts) -> Prompted:
        """Answer boxes `(n, 4)` given as (i, j, i, j), or clicks `(n, m, 2)` given as (i, j)."""
        boxes = points = None
        if prompts.boxes is not None:
            # SAM's x runs along columns, our j; edges to pixel centres, as MedSAM's boxes are
            boxes = prompts.boxes[:, [1, 0, 3, 2]].to(image) - image.new_tensor([0, 0, 1, 1])
            boxes = boxes[:, None]
        if prompts.clicks is not None and prompts.kinds is not None:
            points = (prompts.clicks.flip(-1).to(image), prompts.kinds.to(image.device))
        sparse, dense = self.network.prompt_encoder(points=points, boxes=boxes, masks=None)
        return decode(self.network, image, sparse, dense)


def _unit(views: Tensor) -> Tensor:
    low = views.amin(dim=(1, 2, 3), keepdim=True)
    high = views.amax(dim=(1, 2, 3), keepdim=True)
    return (views - low) / (high - low).clamp_min(1e-8)


def _as_grid(state: Tensor) -> Tensor:
    """Bring a token list `(B, N, w)` or a channels-last map `(B, g, g, w)` to `(B, w, g, g)`."""
    if state.ndim == 3:
        grid = round(state.shape[1] ** 0.5)
        state = state.reshape(state.shape[0], grid, grid, -1)
    return state.permute(0, 3, 1, 2)
