"""How coarse a student's voxels are: coarse enough for a crop to hold a labeled structure.

A student recognizes a place by what its crop shows. At a scan's own voxel size, a crop that two CPU
cores can afford shows a corner of a large organ, which nothing in the crop distinguishes from
similar tissue elsewhere. So voxels grow until a crop holds what is labeled, with some surroundings,
as long as each label, resampled to the coarser grid and back, still overlaps itself with a Dice of
at least 0.95.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from uncol.data.annotation import read_annotation
from uncol.data.cases import Case
from uncol.data.frame import Space, as_tensor, make_frame, zoom
from uncol.data.labels import IGNORE_VALUE
from uncol.data.masks import extent
from uncol.data.scan import read_grid
from uncol.errors import LabelError, ScanError
from uncol.types import Array
from uncol.versions.metrics import dice_per_label

FACTORS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)  # few, so that rounds agree on one
SURROUNDINGS = 1.25  # side of a crop over the side of what it must hold
LEAST_SELF_DICE = 0.95  # of a label with itself, resampled to coarser voxels and back
LOOKED_AT = 8  # annotated cases, spread over all


def coarsen(
    space: Space, cases: Sequence[Case], labels: Mapping[str, int], *, voxels: int, flat: bool
) -> Space:
    """Return the space with voxels as large as a crop needs to hold what is labeled.

    Args:
        space: at the pool's own voxel size.
        cases: annotated cases; those that cannot be read are skipped.
        labels: the app's labels, name to value.
        voxels: most voxels that a crop may have.
        flat: whether crops are slices; then voxels grow within the slice only.
    """
    looks = label_boxes(cases, space, labels)
    if not looks:
        return space
    boxes = [box for box, _ in looks]
    held = np.median(
        [np.minimum(np.array(box.shape) * SURROUNDINGS, shape) for box, shape in looks], axis=0
    )
    chosen = space
    for factor in FACTORS:
        coarse = grown(space, factor, flat=flat)
        if factor > 1 and self_dice(boxes, space, coarse, labels) < LEAST_SELF_DICE:
            break
        chosen = coarse
        size = np.ceil(held / _ratio(space, coarse))
        if np.prod(size[:2] if flat else size) <= voxels:
            break
    return chosen


def label_boxes(
    cases: Sequence[Case], space: Space, labels: Mapping[str, int]
) -> list[tuple[Array, tuple[int, ...]]]:
    """Return label maps of some annotated cases, cropped to the labels, and their scans' shapes.

    Both are in the voxels of `space`; cases that cannot be read or have no labels are left out.
    """
    looks = []
    for case in cases[:: max(1, len(cases) // LOOKED_AT)][:LOOKED_AT]:
        try:
            grid = read_grid(case.image, case=case.name)
            annotation = read_annotation(case, grid, labels)
        except (LabelError, ScanError):  # it stops the round later, together with all others
            continue
        label = make_frame(grid, space).to_working(as_tensor(annotation), nearest=True)[0].numpy()
        label = np.where(label == IGNORE_VALUE, 0, label)
        box = extent(label > 0)
        if box is not None:
            looks.append((label[box], label.shape))
    return looks


def grown(space: Space, factor: float, *, flat: bool) -> Space:
    """Return the space with every voxel side at least `factor` times the shortest."""
    spacing = np.array(space.spacing_mm)
    axes = slice(2) if flat else slice(3)
    spacing[axes] = np.maximum(spacing[axes], factor * spacing[axes].min())
    return replace(space, spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])))


def self_dice(
    boxes: Sequence[Array], space: Space, coarse: Space, labels: Mapping[str, int]
) -> float:
    """Return the Dice, median over cases, of the label that suffers most from coarser voxels.

    Args:
        boxes: label maps `(I, J, K)` in `space`, at least one with a label.
        space: where they are.
        coarse: the same with larger voxels.
        labels: the app's labels, name to value.
    """
    ratio = _ratio(space, coarse)
    rows = [dice_per_label(_there_and_back(box, ratio, labels), box, labels) for box in boxes]
    table = np.array([[row[name] for name in labels] for row in rows])
    occurring = table[:, ~np.isnan(table).all(axis=0)]
    return float(np.nanmedian(occurring, axis=0).min())


def _ratio(space: Space, coarse: Space) -> Array:
    return np.array(coarse.spacing_mm) / space.spacing_mm


def _there_and_back(box: Array, ratio: Array, labels: Mapping[str, int]) -> Array:
    """Resample a label map to coarser voxels as for training, and back as a prediction is."""
    margin = [int(size) for size in np.ceil(ratio)]
    label = np.pad(box, [(size, size) for size in margin])
    size_i, size_j, size_k = (max(1, int(size)) for size in np.rint(label.shape / ratio))
    coarse = zoom(torch.from_numpy(label)[None], (size_i, size_j, size_k), nearest=True)
    values = [0, *labels.values()]
    classes = torch.cat([(coarse == value).float() for value in values])
    size_i, size_j, size_k = label.shape
    best = zoom(classes, (size_i, size_j, size_k), nearest=False).argmax(dim=0).numpy()
    label_map: Array = np.array(values, dtype=box.dtype)[best]
    return label_map[tuple(slice(size, -size) for size in margin)]
