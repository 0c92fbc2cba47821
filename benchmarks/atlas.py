"""Carry annotations over by registration, without training, and judge that as trainings are.

    python benchmarks/atlas.py --studies DIR --labels a,b --seeds 0,1,2 --out FILE

The annotated scan is registered to each scan that judges: an affine transform by mutual
information, then symmetric demons, both SimpleITK's. Of several annotated scans, each voxel takes
the label that most of them give. The minutes only say beside which trainings it is shown.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from beside import arguments, compare, judged, parts

from uncol.experiments.comparison import Comparison, Training
from uncol.experiments.points import Point
from uncol.experiments.pool import LabeledPool
from uncol.types import Array

PERCENTILES = (1, 99)  # of the grey values that become 0 and 1
SHRINK = (4, 2, 1)
ITERATIONS = 60
FIELD_SIGMA = 1.5  # voxels
LEAST_SIZE = 4  # voxels along an axis that is shrunk


def main() -> None:
    """Run what is not in the file yet, and write a line each."""
    asked = arguments(__doc__).parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
    compare(asked, "atlas", "affine, demons", run)


def run(comparison: Comparison, training: Training) -> Point:
    """Carry the annotations of the training scans over to those that judge."""
    labeled, test = parts(comparison, training)
    pool = comparison.pool
    start = time.monotonic()
    atlases = [(read(pool.images / file), read_label(pool, file)) for file in labeled]
    labels = {file: vote(atlases, read(pool.images / file)) for file in test}
    seconds = (time.monotonic() - start) / len(test)
    return judged(comparison, test, labels.__getitem__, seconds=seconds, steps=len(labeled))


def read(path: Path) -> sitk.Image:
    """Return a scan with its grey values brought to 0 to 1."""
    scan = sitk.ReadImage(str(path), sitk.sitkFloat32)
    low, high = np.percentile(sitk.GetArrayViewFromImage(scan), PERCENTILES)
    return sitk.IntensityWindowing(scan, float(low), float(high), 0.0, 1.0)


def read_label(pool: LabeledPool, file: str) -> sitk.Image:
    """Return a label in the grid of its scan."""
    label = sitk.ReadImage(str(pool.truth / file), sitk.sitkUInt8)
    label.CopyInformation(sitk.ReadImage(str(pool.images / file)))
    return label


def vote(atlases: Sequence[tuple[sitk.Image, sitk.Image]], scan: sitk.Image) -> Array:
    """Return the label that most atlases give each voxel, `(I, J, K)`."""
    carried = []
    for image, label in atlases:
        transform = registered(scan, image)
        carried.append(sitk.Resample(label, scan, transform, sitk.sitkNearestNeighbor))
    voted = carried[0] if len(carried) == 1 else sitk.LabelVoting(carried, 0)
    return sitk.GetArrayFromImage(voted).transpose()


def registered(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Return the transform that brings `moving` to the grid of `fixed`."""
    first = affine(fixed, moving)
    brought = sitk.Resample(moving, fixed, first, sitk.sitkLinear)
    brought = sitk.HistogramMatching(brought, fixed, 64, 7, True)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(ITERATIONS)
    demons.SetStandardDeviations(FIELD_SIGMA)
    demons.SetSmoothUpdateField(True)
    demons.SetUpdateFieldStandardDeviations(1.0)
    field = None
    for factor in SHRINK:
        factors = [factor if size >= LEAST_SIZE * factor else 1 for size in fixed.GetSize()]
        small, other = (shrunk(image, factors) for image in (fixed, brought))
        if field is None:
            field = demons.Execute(small, other)
        else:
            field = demons.Execute(small, other, sitk.Resample(field, small))
    field = sitk.Cast(sitk.Resample(field, fixed), sitk.sitkVectorFloat64)
    return sitk.CompositeTransform([first, sitk.DisplacementFieldTransform(field)])


def shrunk(image: sitk.Image, factors: Sequence[int]) -> sitk.Image:
    """Return an image shrunk along its axes, smoothed before where it is."""
    spacing = image.GetSpacing()
    pairs = zip(factors, spacing, strict=True)
    variances = [(factor / 2 * size) ** 2 if factor > 1 else 0.0 for factor, size in pairs]
    return sitk.Shrink(sitk.DiscreteGaussian(image, variances), list(factors))


def affine(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Return the affine transform of most mutual information."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.3, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(
        sitk.CenteredTransformInitializer(
            fixed,
            moving,
            sitk.AffineTransform(fixed.GetDimension()),
            sitk.CenteredTransformInitializerFilter.GEOMETRY,
        ),
        inPlace=False,
    )
    method.SetOptimizerAsGradientDescent(1.0, 60, 1e-6, 10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(SHRINK)
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    return method.Execute(fixed, moving)


if __name__ == "__main__":
    main()
