"""MedSAM (SAM ViT-B) through `segment_anything`; the paper's 2D generalist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from uncol.generalist.models.sam2d import Sam2D
from uncol.networks.weights import Download, fetch, load_checkpoint, verified_digest

MEDSAM_WEIGHTS = Download(
    name="medsam_vit_b.pth",
    url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
    sha256=None,
    size=375_049_145,
)
MEDSAM_BLOCKS = (5, 11)


def download() -> Download:
    """Return where the weights come from."""
    return MEDSAM_WEIGHTS


def load(weights: Path | None, weights_dir: Path) -> Sam2D:
    """Load MedSAM from `weights`, or from the downloaded checkpoint.

    Raises:
        WeightsError: the file is missing and cannot be downloaded, is damaged, or does not fit.
    """
    from segment_anything import sam_model_registry  # noqa: PLC0415 - slow import

    path = weights or fetch(MEDSAM_WEIGHTS, weights_dir)
    network = sam_model_registry["vit_b"](checkpoint=None)
    load_checkpoint(network, path)
    return wrap(network, fingerprint=verified_digest(path, None))


def wrap(network: Any, *, fingerprint: str) -> Sam2D:
    """Wrap a SAM network of any size as a generalist."""
    encoder = network.image_encoder
    blocks = [encoder.blocks[min(b, len(encoder.blocks) - 1)] for b in MEDSAM_BLOCKS]
    width = encoder.pos_embed.shape[-1]
    return Sam2D(
        network,
        name="medsam",
        side=encoder.img_size,
        states=blocks,
        hidden_channels=(width,) * len(blocks),
        fingerprint=fingerprint,
    )
