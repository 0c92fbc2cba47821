"""Where a crop lies in its scan, and how its intensities are varied.

A crop is described by one affine map from crop voxels to scan voxels, so that image, label,
generalist probabilities and generalist features are all sampled by the same geometry.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from uncol.data.crops import CropMap
from uncol.types import Shape

ROTATION = math.radians(20)
SCALE = 0.2
SPATIAL_CHANCE = 0.7
INTENSITY_CHANCE = 0.5


def draw_crop(
    scan_shape: Shape, crop: Shape, *, center: Tensor | None, generator: torch.Generator
) -> CropMap:
    """Draw a crop, usually turned and scaled at random (by up to 20 degrees and 20 %).

    Args:
        scan_shape: the scan's working shape.
        crop: the crop's shape. An axis of one voxel (2D) is neither turned nor scaled.
        center: scan voxel `(3,)` near which the crop's middle lies, or None for a random one.
            The middle is moved so that the crop, unturned, lies inside the scan if it fits.
        generator: source of randomness.
    """
    flat = crop[2] == 1
    matrix = torch.eye(3)
    if float(torch.rand((), generator=generator)) < SPATIAL_CHANCE:
        matrix = _turn(generator, flat=flat) @ torch.diag(_scales(generator, flat=flat))
    middle = _middle(scan_shape, crop, center, generator)
    half = (torch.tensor(crop, dtype=torch.float32) - 1) / 2
    return CropMap(crop, matrix, middle - matrix @ half)


def vary_intensity(image: Tensor, *, generator: torch.Generator) -> Tensor:
    """Vary contrast, brightness, gamma, bias field and noise of a normalized image `(1, I, J, K)`.

    Each at random, with a chance of one half.
    """

    def chance() -> bool:
        return float(torch.rand((), generator=generator)) < INTENSITY_CHANCE

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    if chance():
        image = image * between(0.75, 1.25) + between(-0.25, 0.25)
    if chance():
        low, high = image.min(), image.max()
        unit = (image - low) / (high - low).clamp_min(1e-6)
        image = unit ** between(0.7, 1.5) * (high - low) + low
    if chance():
        image = image * _smooth_field(image, between(0.0, 0.3), generator)
    if chance():
        image = image + between(0.0, 0.15) * torch.randn(image.shape, generator=generator)
    return image


def _middle(
    scan_shape: Shape, crop: Shape, center: Tensor | None, generator: torch.Generator
) -> Tensor:
    size = torch.tensor(scan_shape, dtype=torch.float32)
    half = torch.tensor(crop, dtype=torch.float32) / 2
    if center is not None:
        jitter = (torch.rand(3, generator=generator) - 0.5) * half
        center = center.float() + jitter.where(torch.tensor(crop) > 1, torch.zeros(3))
    else:
        center = torch.rand(3, generator=generator) * (size - 1)
        if crop[2] == 1:
            center[2] = center[2].round()
    low = torch.minimum(half - 0.5, (size - 1) / 2)
    high = torch.maximum(size - half - 0.5, (size - 1) / 2)
    return torch.minimum(torch.maximum(center, low), high)


def _turn(generator: torch.Generator, *, flat: bool) -> Tensor:
    angles = (2 * torch.rand(3, generator=generator) - 1) * ROTATION
    result = torch.eye(3)
    for axis in (2,) if flat else (0, 1, 2):
        first, second = (a for a in range(3) if a != axis)
        cosine, sine = torch.cos(angles[axis]), torch.sin(angles[axis])
        step = torch.eye(3)
        step[first, first] = step[second, second] = cosine
        step[first, second], step[second, first] = -sine, sine
        result = result @ step
    return result


def _scales(generator: torch.Generator, *, flat: bool) -> Tensor:
    scales = 1 + (2 * torch.rand(3, generator=generator) - 1) * SCALE
    if flat:
        scales[2] = 1.0
    return scales


def _smooth_field(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    coarse = torch.randn(1, 1, 3, 3, 3, generator=generator) * strength
    field = F.interpolate(coarse, image.shape[1:], mode="trilinear", align_corners=True)[0]
    return field.exp()
