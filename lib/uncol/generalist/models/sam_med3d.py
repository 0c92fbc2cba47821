"""SAM-Med3D (`vit_b_ori`) through `medim`; the paper's 3D generalist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uncol.generalist.models.hooks import decode, kept_outputs
from uncol.generalist.models.protocol import Encoded, Prompted, Prompts
from uncol.networks.weights import Download, fetch, load_checkpoint, verified_digest

SAM_MED3D_WEIGHTS = Download(
    name="sam_med3d_turbo.pth",
    url="https://huggingface.co/blueyo0/SAM-Med3D/resolve/main/sam_med3d_turbo.pth",
    sha256=None,
)
SAM_MED3D_BLOCKS = (3, 7, 11)
SAM_MED3D_PREPROCESSING = "z-score over positive voxels, v1"


def download() -> Download:
    """Return where the weights come from."""
    return SAM_MED3D_WEIGHTS


def load(weights: Path | None, weights_dir: Path) -> SamMed3D:
    """Load SAM-Med3D from `weights`, or from the downloaded checkpoint.

    Raises:
        WeightsError: the file is missing and cannot be downloaded, is damaged, or does not fit.
    """
    from medim.models.sam_med3d import build_sam3D_vit_b_ori  # noqa: PLC0415 - slow import

    path = weights or fetch(SAM_MED3D_WEIGHTS, weights_dir)
    network = build_sam3D_vit_b_ori()
    load_checkpoint(network, path, entry="model_state_dict")
    return SamMed3D(network, fingerprint=verified_digest(path, None))


class SamMed3D:
    """A SAM-Med3D network as a generalist; see `FoundationModel`."""

    name = "sam_med3d"
    dims = 3
    takes_boxes = False

    def __init__(self, network: Any, *, fingerprint: str) -> None:
        """Wrap a network with `image_encoder`, `prompt_encoder` and `mask_decoder`."""
        self.network = network.eval().requires_grad_(False)
        encoder = network.image_encoder
        self.side = encoder.img_size
        depth = len(encoder.blocks)
        self._states = [encoder.blocks[min(b, depth - 1)] for b in SAM_MED3D_BLOCKS]
        self.hidden_channels = (encoder.blocks[0].norm1.normalized_shape[0],) * len(self._states)
        self.token_channels = network.prompt_encoder.embed_dim
        self.fingerprint = f"{fingerprint}; {SAM_MED3D_PREPROCESSING}"

    @torch.no_grad()
    def encode(self, views: Tensor, *, raw: bool = False) -> Encoded:
        """Encode `(B, 1, side, side, side)`, each z-scored over its voxels above the minimum.

        The released code z-scores over x > 0 of the raw scan; views are already normalized, so
        the view's minimum stands for 0.
        """
        with kept_outputs(self._states) as states:
            image = self.network.image_encoder(views if raw else _z_score(views))
        return Encoded(image, tuple(state.permute(0, 4, 1, 2, 3) for state in states))

    @torch.no_grad()
    def prompt(self, image: Tensor, prompts: Prompts) -> Prompted:
        """Answer clicks `(n, m, 3)` in view pixels; `memory` is the last step's logits."""
        if prompts.clicks is None or prompts.kinds is None:
            raise ValueError("sam_med3d takes clicks, not boxes")
        count = len(prompts.clicks)
        low = self.side // 4
        memory = prompts.memory
        if memory is None:
            memory = image.new_zeros(count, low, low, low)
        sparse, dense = self.network.prompt_encoder(
            points=(prompts.clicks.to(image), prompts.kinds.to(image.device)),
            boxes=None,
            masks=memory[:, None],
        )
        return decode(self.network, image.expand(count, -1, -1, -1, -1), sparse, dense)


def _z_score(views: Tensor) -> Tensor:
    result = torch.empty_like(views)
    for index, view in enumerate(views):
        inside = view[view > view.min()]
        inside = inside if inside.numel() > 1 else view.flatten()
        result[index] = (view - inside.mean()) / inside.std().clamp_min(1e-8)
    return result
