"""Keep only one piece of structures that are a single piece in every annotated scan.

A student of few labels finds its structure and much that looks like it. nnU-Net's first version
(Isensee et al. 2018, arXiv:1809.10486, section 2.5) lets the training labels decide: if a label is
a single piece in all of them, it keeps only the largest piece of a prediction. Size is a poor judge
where a stray piece is large, so here the piece counts that holds most of what the student believes
in, label by label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from uncol.data.labels import IGNORE_VALUE
from uncol.data.masks import extent, largest_component
from uncol.types import Array

FEWEST_SCANS = 3  # annotated scans that must agree
NEARLY = 0.99  # share of its voxels that the largest piece of a single structure holds at least
Structures = tuple[tuple[int, ...], ...]


def find_one_piece(annotations: Iterable[Array], labels: Mapping[str, int]) -> Structures:
    """Return the labels that, alone or all together, are a single piece in all annotated scans.

    Args:
        annotations: `(I, J, K)` label values each, 255 for voxels that are not annotated; a scan
            with such voxels shows only a part and is skipped.
        labels: the app's labels.

    Returns:
        Sets of label values: all labels together first, then single labels. Each is one piece in at
        least three scans that hold all of it, and in several pieces in no scan.
    """
    values = tuple(sorted(labels.values()))
    together = [values] if len(values) > 1 else []
    seen = dict.fromkeys([*together, *((value,) for value in values)], 0)
    for annotation in annotations:
        if (annotation == IGNORE_VALUE).any():
            continue
        for structure in list(seen):
            if _apart(annotation, structure):
                del seen[structure]
            elif _sizes(annotation, structure).all():
                seen[structure] += 1
    return tuple(structure for structure, count in seen.items() if count >= FEWEST_SCANS)


def _apart(annotation: Array, structure: Sequence[int]) -> bool:
    """Return whether a structure lies in several pieces, slips of the hand aside."""
    sizes = _sizes(annotation, structure)
    if not sizes.any():
        return False
    largest = largest_component(np.isin(annotation, structure), corners=True)
    # per label: a whole small label that lies apart is no slip of the hand
    return bool((_sizes(np.where(largest, annotation, 0), structure) < NEARLY * sizes).any())


def structure_names(structures: Structures, labels: Mapping[str, int]) -> list[str]:
    """Return each structure's labels by name, `rv + lv` for a set of two."""
    names = {value: name for name, value in labels.items()}
    return [" + ".join(names[value] for value in structure) for structure in structures]


@torch.inference_mode()
def keep_one_piece_(probs: Tensor, label: Tensor, structures: Sequence[Sequence[int]]) -> None:
    """Remove stray pieces of single structures from a prediction, in place.

    At a stray voxel the predicted class changes places with the most probable one outside the
    structure. This does not change entropy: the rim of a removed piece stays unsure.

    Args:
        probs: `(C, I, J, K)`.
        label: `(I, J, K)` uint8, the most probable class.
        structures: see `find_one_piece`.
    """
    others = list(range(probs.shape[0]))
    while True:
        dropped = [_drop_(probs, label, structure, others) for structure in structures]
        if not any(dropped[1:]):  # all others were checked after the first one changed
            return
        others = [0]  # moves between labels could alternate for ever


def _drop_(probs: Tensor, label: Tensor, structure: Sequence[int], others: Sequence[int]) -> bool:
    """Give stray pieces to the likeliest of the other classes; return whether there were any."""
    mask = np.isin(label.numpy(), structure)
    region = extent(mask)
    if region is None:
        return False
    chosen = label.numpy()[region]
    sure = probs.numpy()[(slice(None), *region)]
    evidence = np.stack([np.where(chosen == value, sure[value], 0) for value in structure])
    mask[region] &= ~likeliest_piece(mask[region], evidence)
    if not mask.any():
        return False
    stray = torch.from_numpy(mask)
    there = probs[:, stray]
    taken = label[stray].long()[None]
    possible = torch.full_like(there, -1.0)
    outside = [index for index in others if index not in structure]
    possible[outside] = there[outside]
    given = possible.argmax(dim=0, keepdim=True)
    most, next_most = there.gather(0, taken), there.gather(0, given)
    probs[:, stray] = there.scatter(0, taken, next_most).scatter(0, given, most)
    label[stray] = given[0].to(label.dtype)
    return True


def likeliest_piece(mask: Array, evidence: Array) -> Array:
    """Return the piece of a mask that holds the largest shares of each label's evidence.

    So a piece that has all labels wins over a larger one of a single label.

    Args:
        mask: `(I, J, K)` bool; voxels that share a corner are of one piece.
        evidence: `(labels, I, J, K)`, each label's probability where it is predicted, else 0.
    """
    pieces, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count <= 1:
        return mask
    flat = pieces.ravel()
    sums = np.array([np.bincount(flat, label.ravel()) for label in evidence])[:, 1:]
    shares = sums / np.maximum(sums.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return np.asarray(pieces == shares.sum(axis=0).argmax() + 1)


def _sizes(annotation: Array, structure: Sequence[int]) -> Array:
    return np.array([np.count_nonzero(annotation == value) for value in structure])
