"""Encode views of scans with the generalist, or fetch them from the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from uncol.data.grid import Volume
from uncol.data.imagefile import READ_AS
from uncol.data.preprocess import normalize
from uncol.generalist.cache import EmbeddingCache
from uncol.generalist.letterbox import letterbox_of
from uncol.generalist.models.protocol import Encoded, FoundationModel
from uncol.types import Array
from uncol.wanted import check_wanted

WHOLE_SCAN = -1  # the axis of a view that is the whole scan
Encode = Callable[[int, int], Encoded]  # (axis, slice) -> encoded view; axis WHOLE_SCAN: whole scan


def view_key(*identity: object) -> str:
    """Return the name under which a view is kept: a digest of all that decides it."""
    return hashlib.sha256(" ".join(map(str, identity)).encode()).hexdigest()[:32]


def region_of(volume: Array | Tensor, axis: int | None, index: int) -> Tensor:
    """Return a slice `(p, q)` of `(I, J, K)`, or all of it for no axis; float32, in memory.

    Only that slice of an array on disk is read.
    """
    part = volume if axis is None else volume[(slice(None),) * axis + (index,)]
    if isinstance(part, Tensor):
        return part.float()
    return torch.from_numpy(np.array(part, dtype=np.float32))


def scan_encoder(
    model: FoundationModel,
    cache: EmbeddingCache,
    scan: Volume,
    *,
    content: str,
    modality: str,
    device: torch.device,
) -> Encode:
    """Return a function that encodes views of a scan in its own grid, keeping them on disk.

    Args:
        model: the generalist, on `device`.
        cache: where views are kept, without the states that only training needs.
        scan: the scan.
        content: digest of its file.
        modality: see `preprocess.normalize`.
        device: where the generalist runs.
    """
    image = normalize(torch.from_numpy(scan.array), modality)

    def encode(axis: int, index: int) -> Encoded:
        check_wanted()

        def compute() -> Encoded:
            along = None if axis == WHOLE_SCAN else axis
            box = letterbox_of(scan.grid.shape, scan.grid.spacing_mm, along, model.side)
            view = box.shrink(region_of(image, along, index)[None])
            return Encoded(model.encode(view.to(device)).image, ())

        encoded = cache.get(
            view_key("scan", READ_AS, content, axis, index, model.fingerprint), compute
        )
        return Encoded(encoded.image.to(device), ())

    return encode
