"""How coarse a student looks at a pool: enough to see a labeled structure whole.

A student knows a place by what its crop shows. At a scan's own voxel size, a crop that two CPU
cores can afford shows a corner of a large organ, and nothing in it tells that corner from what
looks alike elsewhere. So voxels grow until a crop holds what is labeled, with some surroundings,
but never so far that the labels themselves would suffer.
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
SURROUNDINGS = 1.25  # side of a crop over that of what it holds
LEAST_SELF_DICE = (
    0.95  # Dice that a label must have with itself after the way to coarse voxels and back
)
LOOKED_AT = 8  # annotated cases, spread over all


def coarsen(
    space: Space, cases: Sequence[Case], labels: Mapping[str, int], *, voxels: int, flat: bool
) -> Space:
    """Return the space with voxels as large as a crop needs to hold what is labeled.

    Args:
        space: at the pool's own voxel size.
        cases: annotated cases; what cannot be read is not looked at.
        labels: the app's labels, name to value.
        voxels: most voxels that a crop may have.
        flat: whether crops are slices; then voxels grow within them alone.
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
    """Return, of some annotated cases, the label map around all labels, and the scan's shape.

    Both are in the space; a case that cannot be read, or has no labels, has no entry.
    """
    looks = []
    for case in cases[:: max(1, len(cases) // LOOKED_AT)][:LOOKED_AT]:
        try:
            grid = read_grid(case.image, case=case.name)
            annotation = read_annotation(case, grid, labels)
        except (LabelError, ScanError):  # which stops the round later, together with all others
            continue
        label = make_frame(grid, space).to_working(as_tensor(annotation), nearest=True)[0].numpy()
        label = np.where(label == IGNORE_VALUE, 0, label)
        box = extent(label > 0)
        if box is not None:
            looks.append((label[box], label.shape))
    return looks


def grown(space: Space, factor: float, *, flat: bool) -> Space:
    """Return the space whose voxels are `factor` times the finest axis, or as long as they were."""
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
    """Bring a label map to coarser voxels as for training, and back as a prediction is."""
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
