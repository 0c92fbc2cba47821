"""The student's convolutional encoder-decoders: U-Net (2D) and V-Net (3D).

Both follow docs/method.md sections 1.2 and 1.3. MONAI's UNet and VNet differ (transposed
convolutions, ELU, other widths), so they would not give the paper's 3.525 M and 13.940 M.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uncol.networks.spec import Strides


class UNet(nn.Module):
    """2D: max-pooling down, bilinear up, concatenated skips, BatchNorm and LeakyReLU."""

    dropped = (0.05, 0.1, 0.2, 0.3, 0.5)  # share of features, per level of the encoder

    def __init__(self, channels: tuple[int, ...], *, dropout: bool = True) -> None:
        """Build a U-Net with these channels, from full size to bottleneck.

        Args:
            channels: of each level.
            dropout: whether training drops features between an encoder block's convolutions.
        """
        super().__init__()
        drops = self.dropped[: len(channels) - 1] + self.dropped[-1:]
        if not dropout:
            drops = (0.0,) * len(channels)
        sources = (1, *channels[:-1])
        self.encoder = nn.ModuleList(
            _unet_block(i, o, drop) for i, o, drop in zip(sources, channels, drops, strict=True)
        )
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.narrow = nn.ModuleList(nn.Conv2d(deep, skip, 1) for deep, skip in pairs)
        self.decoder = nn.ModuleList(_unet_block(2 * skip, skip, 0.0) for _, skip in pairs)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the features of each level, bottleneck last; `(B, c, I / 2^l, J / 2^l)`."""
        levels = [self.encoder[0](image)]
        for block in list(self.encoder)[1:]:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        return levels

    def decode(self, bottleneck: Tensor, levels: list[Tensor]) -> Tensor:
        """Return full-size features `(B, channels[0], I, J)`."""
        features = bottleneck
        skips = levels[-2::-1]
        for narrow, block, skip in zip(self.narrow, self.decoder, skips, strict=True):
            up = F.interpolate(
                narrow(features), scale_factor=2.0, mode="bilinear", align_corners=True
            )
            features = block(torch.cat([skip, up], dim=1))
        return features

    def make_head(self, channels: int, classes: int) -> nn.Module:
        """Return a segmentation head."""
        return nn.Conv2d(channels, classes, 3, padding=1)


class VNet(nn.Module):
    """3D: strided convolutions down, transposed up, additive skips, InstanceNorm and ReLU."""

    convolutions = (1, 2, 3, 3, 3)  # per level, from full size to bottleneck

    def __init__(self, channels: tuple[int, ...], strides: Strides) -> None:
        """Build a V-Net.

        Args:
            channels: channels of each level, from full size to bottleneck.
            strides: down-sampling between levels along I, J, K; one fewer than `channels`.
        """
        super().__init__()
        if len(strides) != len(channels) - 1:
            raise ValueError(f"{len(channels)} levels need {len(channels) - 1} strides")
        counts = self.convolutions[: len(channels) - 1] + self.convolutions[-1:]
        self.encoder = nn.ModuleList([_vnet_block(1, channels[0], counts[0])])
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for fine, deep, stride, count in zip(
            channels, channels[1:], strides, counts[1:], strict=False
        ):
            self.down.append(_normed(nn.Conv3d(fine, deep, stride, stride), deep))
            self.up.append(_normed(nn.ConvTranspose3d(deep, fine, stride, stride), fine))
            self.encoder.append(_vnet_block(deep, deep, count))
        for fine, count in zip(channels[1:-1], counts[1:-1], strict=True):
            self.decoder.append(_vnet_block(fine, fine, count))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the features of each level, bottleneck last."""
        levels = [self.encoder[0](image)]
        for down, block in zip(self.down, list(self.encoder)[1:], strict=True):
            levels.append(block(down(levels[-1])))
        return levels

    def decode(self, bottleneck: Tensor, levels: list[Tensor]) -> Tensor:
        """Return full-size features `(B, channels[0], I, J, K)`; the heads hold its last block."""
        features = bottleneck
        for level in range(len(levels) - 2, -1, -1):
            features = self.up[level](features) + levels[level]
            if level > 0:
                features = self.decoder[level - 1](features)
        return features

    def make_head(self, channels: int, classes: int) -> nn.Module:
        """Return a segmentation head: one convolution block, then classes."""
        return nn.Sequential(_vnet_block(channels, channels, 1), nn.Conv3d(channels, classes, 1))


def _unet_block(source: int, target: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(source, target, 3, padding=1),
        nn.BatchNorm2d(target),
        nn.LeakyReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(target, target, 3, padding=1),
        nn.BatchNorm2d(target),
        nn.LeakyReLU(inplace=True),
    )


def _vnet_block(source: int, target: int, count: int) -> nn.Sequential:
    convs = [nn.Conv3d(source if n == 0 else target, target, 3, padding=1) for n in range(count)]
    return nn.Sequential(*(_normed(conv, target) for conv in convs))


def _normed(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.InstanceNorm3d(channels), nn.ReLU(inplace=True))
