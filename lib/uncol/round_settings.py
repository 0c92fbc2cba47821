"""What a round of training is made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class RoundSettings:
    """What a round is made with; see `settings.Settings` for the meaning of most.

    Attributes:
        labels: name to value.
        preset: preset name or `auto`.
        teacher: the generalized teacher's name.
        teacher_weights: its file, or None.
        mode: `intended` or `release`.
        modality: intensity normalization.
        model_dir: folder of versions, caches and weights.
        device: where it computes.
        seed: seed of networks, crops and clicks.
        step_scale: multiplies the planned steps.
        labeled_only: train although nothing is unlabeled.
        cache_gb: most GiB on disk for what the generalized teacher saw.
        one_piece: whether predictions keep single structures in one piece, see
            `inference/pieces.py`.
    """

    labels: Mapping[str, int]
    preset: str
    teacher: str
    teacher_weights: Path | None
    mode: str
    modality: str
    model_dir: Path
    device: torch.device
    seed: int = 0
    step_scale: float = 1.0
    labeled_only: bool = False
    cache_gb: int = 50
    one_piece: bool = True
