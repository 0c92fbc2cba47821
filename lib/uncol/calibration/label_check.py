"""Submitted labels that specialist and generalist confidently contradict (pure)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from scipy import ndimage
from torch import Tensor

from uncol.data.boxes import BoxMm
from uncol.data.frame import Frame
from uncol.data.labels import IGNORE_VALUE
from uncol.data.masks import box_mm, extent
from uncol.types import Array

SURE = 0.9  # probability from which the specialist contradicts
LEAST_SHARE = 0.05  # of a case's foreground that must be contradicted
LEAST_PATCH_VOXELS = 8  # a smaller patch is a matter of taste


class Doubt(BaseModel):
    """A submitted label worth a second look.

    Attributes:
        case: its name.
        label: what both say about most voxels of the largest contradicted patch; may be
            `background`.
        share: contradicted voxels over those of the foreground, drawn or predicted, in [0, 1].
        place: the box around the largest contradicted patch.
        text: a sentence for the annotator.
    """

    model_config = ConfigDict(frozen=True)

    case: str
    label: str
    share: float
    place: BoxMm
    text: str


def check_label(
    case: str,
    label: Array,
    specialist: Tensor,
    generalist: tuple[Tensor, Tensor] | None,
    *,
    frame: Frame,
    labels: Mapping[str, int],
) -> Doubt | None:
    """Compare a submitted label with specialist and generalist; None if nothing is in doubt.

    Args:
        case: its name.
        label: `(I, J, K)` in the working frame, 255 where not annotated.
        specialist: `(C, I, J, K)` probabilities.
        generalist: foreground probabilities `(C - 1, I, J, K)` and where they exist `(I, J, K)`,
            or None without a generalist; then the specialist alone judges.
        frame: from the scan's grid to the working frame.
        labels: name to value.
    """
    top, says = specialist.max(dim=0)
    drawn = torch.from_numpy(label.astype(np.int64))
    against = (top >= SURE) & (says != drawn) & (drawn != IGNORE_VALUE)
    looked = torch.ones_like(against)
    if generalist is not None:
        foreground, looked = generalist
        strongest, index = foreground.max(dim=0)
        against &= looked & (torch.where(strongest >= 0.5, index + 1, 0) == says)
    subject = looked & (drawn != IGNORE_VALUE) & ((drawn > 0) | (says > 0))
    share = float(against.sum()) / max(int(subject.sum()), 1)
    parts, _ = ndimage.label(against.numpy())
    sizes = np.bincount(parts.ravel())[1:]
    if not sizes.size or sizes.max() < LEAST_PATCH_VOXELS or share < LEAST_SHARE:
        return None
    worst = torch.from_numpy(parts == 1 + int(sizes.argmax()))
    name = _name(says[worst], labels)
    place = _place(worst, frame)
    instead = _name(drawn[worst], labels)
    return Doubt(
        case=case,
        label=name,
        share=share,
        place=place,
        text=(
            f"{case}, slice {place.slice + 1}: drawn as {instead}, "
            f"specialist and generalist say {name} "
            f"({share:.0%} of the foreground looked at is contradicted)."
        ),
    )


def _name(values: Tensor, labels: Mapping[str, int]) -> str:
    names = {0: "background", **{value: name for name, value in labels.items()}}
    return names[int(values.mode().values)]


def _place(mask: Tensor, frame: Frame) -> BoxMm:
    in_scan = frame.to_scan(mask[None].to(torch.uint8), nearest=True)[0].numpy() > 0
    box = extent(in_scan)
    if box is None:  # thinner than the scan's voxels
        return BoxMm(center_mm=(), size_mm=(), slice=0)
    center, size = box_mm(box, frame.scan)
    worst = box[2].start + int(in_scan[box].sum(axis=(0, 1)).argmax())
    return BoxMm(center_mm=center, size_mm=size, slice=worst)
