"""Student sizes by name, and the choice that fits a pool and a device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from uncol.data.stack import THICK
from uncol.networks.spec import StudentSpec
from uncol.types import Shape

HALVE = (2, 2, 2)
FLAT = (2, 2, 1)


@dataclass(frozen=True)
class Preset:
    """A student's sizes and how it is trained.

    Attributes:
        spec: the network.
        crop: training crop, and window at inference, in working voxels.
        voxels: most voxels a crop may have; with `batch` it bounds memory and time.
        batch: crops per step. In stage 2 half of them are labeled and half unlabeled; while crops
            are not mixed, all are labeled, and three quarters as many unlabeled ones are added.
        optimizer: `sgd` (the paper's) or `adamw` (converges in few steps).
        rate: first learning rate of the polynomial schedule.
        mix_until: share of stage 2 up to which crops are copy-pasted into each other, where they
            hold enough of a scan (`Recipe.mix_from`). Small presets, with few steps, end with
            whole crops, which is what they meet at inference.
        dropout: whether training drops features of the 2D encoder, as the paper's does.
    """

    spec: StudentSpec
    crop: Shape
    voxels: int
    batch: int
    optimizer: str
    rate: float
    mix_until: float
    dropout: bool = False


def _spec3d(channels: tuple[int, ...], depth: int) -> StudentSpec:
    width = channels[-1]
    return StudentSpec(
        3, channels, (HALVE,) * (len(channels) - 1), width, depth, 4, width // 4, 4 * width
    )


PRESETS: dict[str, Preset] = {
    "tiny3d": Preset(_spec3d((8, 16, 32), 2), (32, 32, 32), 32**3, 4, "adamw", 3e-3, 0.5),
    "small3d": Preset(_spec3d((16, 32, 64, 128), 4), (40, 40, 40), 40**3, 4, "adamw", 2e-3, 0.5),
    "paper3d": Preset(
        _spec3d((16, 32, 64, 128, 256), 4), (128, 128, 128), 128**3, 4, "sgd", 0.01, 1.0
    ),
    "tiny2d": Preset(
        StudentSpec(2, (4, 8, 16), (FLAT,) * 2, 16, 2, 2, 8, 32),
        (64, 64, 1),
        64**2,
        4,
        "adamw",
        3e-3,
        0.5,
    ),
    "small2d": Preset(
        StudentSpec(2, (16, 32, 64, 128, 256), (FLAT,) * 4, 64, 4, 4, 16, 128),
        (128, 128, 1),
        128**2,
        8,
        "adamw",
        2e-3,
        0.5,
    ),
    "paper2d": Preset(
        StudentSpec(2, (16, 32, 64, 128, 256), (FLAT,) * 4, 128, 4, 4, 64, 256),
        (256, 256, 1),
        256**2,
        4,
        "sgd",
        0.01,
        1.0,
        dropout=True,
    ),
}


def choose_preset(name: str, *, shape: Shape, gpu: bool) -> str:
    """Resolve `auto`.

    Args:
        name: a preset's name or `auto`.
        shape: the pool's median working shape; `K = 1` means single images.
        gpu: whether training runs on a GPU.
    """
    if name != "auto":
        return name
    size = "paper" if gpu else "small"
    return f"{size}2d" if shape[2] == 1 else f"{size}3d"


def fit_preset(name: str, *, shape: Shape, spacing_mm: tuple[float, float, float]) -> Preset:
    """Fit a preset to a pool: strides to its voxel size, the crop to its shape.

    A 3D axis is not halved while its voxels are twice as long as the shortest, or when fewer than
    8 voxels would be left, so that a stack of 10 thick slices still passes four levels.

    Args:
        name: a key of `PRESETS`.
        shape: the pool's median working shape.
        spacing_mm: the working voxel size.
    """
    preset = PRESETS[name]
    spec = preset.spec
    if spec.dims == 3:
        spec = replace(spec, strides=_fit_strides(len(spec.strides), shape, spacing_mm))
    crop = _fit_crop(_seen_whole(spec, shape), spec.patch, preset.voxels)
    return replace(preset, spec=spec, crop=crop)


def crop_share(preset: Preset, shape: Shape) -> float:
    """Return the share of a scan of this shape that a crop holds; of a slice, in 2D."""
    whole = np.array(_seen_whole(preset.spec, shape))
    return float(np.prod(np.minimum(preset.crop / whole, 1.0)))


def _seen_whole(spec: StudentSpec, shape: Shape) -> Shape:
    """Return the shape of what one crop could hold at most: the scan, or a slice of it."""
    return (shape[0], shape[1], 1) if spec.dims == 2 else shape


def _fit_crop(shape: Shape, patch: Shape, voxels: int) -> Shape:
    """Grow a crop by whole patches, in the scans' proportions, up to their size or the limit."""
    most = np.maximum(np.ceil(np.array(shape) / patch - 0.5), 1).astype(int)  # a half rounds down
    count = np.ones(3, dtype=int)
    while True:
        grown = np.prod(count * patch) / count * (count + 1)
        share = np.where((count < most) & (grown <= voxels), count / most, np.inf)
        axis = int(np.argmin(share))
        if not np.isfinite(share[axis]):
            break
        count[axis] += 1
    size_i, size_j, size_k = (int(size) for size in count * patch)
    return (size_i, size_j, size_k)


def _fit_strides(
    count: int, shape: Shape, spacing_mm: tuple[float, float, float]
) -> tuple[Shape, ...]:
    size, spacing = np.array(shape, dtype=float), np.array(spacing_mm)
    strides: list[Shape] = []
    for _ in range(count):
        coarse = spacing >= THICK * spacing.min()
        halve = ~coarse & (size >= 8)
        step = np.where(halve, 2, 1)
        size, spacing = size / step, spacing * step
        strides.append((int(step[0]), int(step[1]), int(step[2])))
    return tuple(strides)
