"""The measure of uncertainty: what the map shows, calibration fits, and review bands use.

To use another measure, replace it here. The gate of pseudo-labels does not follow: it uses entropy
itself, as its equation says (`method/fusion.py`), so training stays the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from uncol.types import Array
from uncol.uncertainty.maps import entropy


def voxel_uncertainty(probs: Tensor) -> Tensor:
    """Return the uncertainty of each voxel in [0, 1]: the normalized entropy of its classes.

    Args:
        probs: `(C, ...)` probabilities.

    Returns:
        `(...)`.
    """
    return entropy(probs, dim=0)


def row_uncertainty(probs: Array) -> Array:
    """Return the same measure `(n,)` of probabilities `(n, C)`."""
    values: Array = voxel_uncertainty(torch.tensor(probs).T).numpy()
    return values
