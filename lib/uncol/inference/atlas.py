"""A first label without training: annotations are carried over to a scan by registration.

Each annotated scan is registered to the new one, by an affine transform of most mutual information
and by symmetric demons (Vercauteren et al. 2009), both SimpleITK's. Where several are carried over,
they vote, each with the more weight the more it looks like the scan around a voxel (Artaechevarria
et al. 2009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from uncol.data.grid import Volume, to_itk
from uncol.types import Array
from uncol.wanted import check_wanted

COARSE_VOXELS = 2**18  # scans are registered on at most as many
FINE_VOXELS = 2**24  # labels are carried over on at most as many
PERCENTILES = (1, 99)  # of the grey values that become 0 and 1
LEVELS = (4, 2, 1)  # how much both scans are shrunk, one after the other
LEAST_SIZE = 4  # voxels along an axis that is shrunk for the demons
LEAST_SLICES = 8  # voxels along each axis for the affine transform
AFFINE_STEPS = 100  # at each level
FIRST_STEP, LAST_STEP = 2.0, 0.01  # voxels
DEMONS_STEPS = 60  # at each level
FIELD_SIGMA = 1.5  # voxels, of the smoothing of displacements
NEAR_VARIANCE = 4.0  # voxels squared, of what counts as around a voxel
LEAST_DIFFERENCE = 1e-4  # squared grey value


@dataclass(frozen=True)
class Atlas:
    """An annotated scan.

    Attributes:
        scan: its grey values.
        label: `(I, J, K)` in its grid, values 0...L.
    """

    scan: Volume
    label: Array


def carry(atlases: Sequence[Atlas], scan: Volume) -> Array:
    """Return a label of a scan, made from those of others.

    Args:
        atlases: at least one, each with as many dimensions as the scan.
        scan: what is to be labeled.

    Returns:
        `(I, J, K)` uint8 in the scan's grid, values 0...L.

    Raises:
        NoLongerWantedError: nobody waits for it any more.
    """
    whole = _grey(scan)
    fixed = _at_most(whole, FINE_VOXELS)
    coarse = _at_most(whole, COARSE_VOXELS)
    count = 1 + max(int(atlas.label.max()) for atlas in atlases)
    votes = np.zeros((count, *sitk.GetArrayViewFromImage(fixed).shape), np.float32)
    for atlas in atlases:
        moving = _grey(atlas.scan)
        transform = _registered(coarse, _at_most(moving, COARSE_VOXELS))
        label = to_itk(atlas.label.astype(np.uint8), atlas.scan.grid)
        carried = sitk.Resample(label, fixed, transform, sitk.sitkNearestNeighbor)
        weight = _likeness(sitk.Resample(moving, fixed, transform, sitk.sitkLinear), fixed)
        for value in range(count):
            votes[value] += weight * (sitk.GetArrayViewFromImage(carried) == value)
    voted = sitk.GetImageFromArray(votes.argmax(axis=0).astype(np.uint8))
    voted.CopyInformation(fixed)
    voted = sitk.Resample(voted, whole, sitk.Transform(), sitk.sitkNearestNeighbor)
    return np.ascontiguousarray(sitk.GetArrayFromImage(voted).T.reshape(scan.grid.shape))


def _grey(scan: Volume) -> sitk.Image:
    """Return a scan's grey values, its usual ones from 0 to 1."""
    low, high = np.percentile(scan.array, PERCENTILES)
    image = to_itk(scan.array.astype(np.float32), scan.grid)
    return sitk.IntensityWindowing(image, float(low), float(max(high, low + 1e-6)), 0.0, 1.0)


def _at_most(image: sitk.Image, voxels: int) -> sitk.Image:
    """Return an image shrunk to at most some voxels, along its finest axes first."""
    spacing = np.array(image.GetSpacing())
    size = np.array(image.GetSize())
    aim = float(spacing.min())
    factors = np.ones(len(size), int)
    while math.prod(np.ceil(size / factors).astype(int).tolist()) > voxels:
        aim *= 1.1
        factors = np.clip(np.round(aim / spacing).astype(int), 1, size)
    return _shrunk(image, factors.tolist())


def _likeness(carried: sitk.Image, scan: sitk.Image) -> Array:
    difference = sitk.DiscreteGaussian((carried - scan) ** 2, NEAR_VARIANCE, useImageSpacing=False)
    return np.asarray(1.0 / (sitk.GetArrayFromImage(difference) + LEAST_DIFFERENCE))


def _registered(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Return the transform that brings `moving` to the grid of `fixed`."""
    first = _affine(fixed, moving)
    brought = sitk.Resample(moving, fixed, first, sitk.sitkLinear)
    brought = sitk.HistogramMatching(brought, fixed, 64, 7, True)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(DEMONS_STEPS)
    demons.SetStandardDeviations(FIELD_SIGMA)
    demons.SetSmoothUpdateField(True)
    demons.SetUpdateFieldStandardDeviations(1.0)
    field = None
    for level in LEVELS:
        check_wanted()
        factors = [level if size >= LEAST_SIZE * level else 1 for size in fixed.GetSize()]
        small, other = (_shrunk(image, factors) for image in (fixed, brought))
        if field is None:
            field = demons.Execute(small, other)
        else:
            field = demons.Execute(small, other, sitk.Resample(field, small))
    field = sitk.Cast(sitk.Resample(field, fixed), sitk.sitkVectorFloat64)
    return sitk.CompositeTransform([first, sitk.DisplacementFieldTransform(field)])


def _shrunk(image: sitk.Image, factors: Sequence[int]) -> sitk.Image:
    """Return an image shrunk along its axes, smoothed before where it is."""
    if max(factors) == 1:
        return image
    pairs = zip(factors, image.GetSpacing(), strict=True)
    variances = [(factor / 2 * size) ** 2 if factor > 1 else 0.0 for factor, size in pairs]
    return sitk.Shrink(sitk.DiscreteGaussian(image, variances), list(factors))


def _affine(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Return the affine transform of most mutual information."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.3, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    start = sitk.CenteredTransformInitializer(
        fixed,
        moving,
        sitk.AffineTransform(fixed.GetDimension()),
        sitk.CenteredTransformInitializerFilter.GEOMETRY,
    )
    method.SetInitialTransform(start, inPlace=False)
    # bounded steps: scans that share half of what they show must not be pushed off each other
    size = min(fixed.GetSpacing())
    method.SetOptimizerAsRegularStepGradientDescent(
        FIRST_STEP * size, LAST_STEP * size, AFFINE_STEPS
    )
    method.SetOptimizerScalesFromPhysicalShift()
    least = max(1, min(fixed.GetSize()) // LEAST_SLICES)  # thick slices are not shrunk away
    method.SetShrinkFactorsPerLevel([min(level, least) for level in LEVELS])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    return method.Execute(fixed, moving)
