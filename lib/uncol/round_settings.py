"""The settings of one round of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uncol.storage.model_folder import ModelFolder

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RoundSettings:
    """The settings of one round of training; `settings.Settings` explains most of them.

    Attributes:
        labels: name to value.
        preset: preset name or `auto`.
        generalist: the generalist's name.
        generalist_weights: its file, or None.
        mode: `intended` or `release`.
        modality: intensity normalization.
        model_dir: folder of versions, caches and weights.
        device: where it computes.
        seed: seed of networks, crops and clicks.
        step_scale: factor on the planned steps.
        labeled_only: train even if no case is unlabeled.
        pretrained: go on from the served version where that is possible, see `training/start.py`.
        idle: whether nobody asked for the round.
        cache_gb: most GiB on disk for the generalist's embeddings, and again for prepared scans.
        one_piece: whether predictions drop stray pieces of structures, see
            `inference/one_piece.py`.
    """

    labels: Mapping[str, int]
    preset: str
    generalist: str
    generalist_weights: Path | None
    mode: str
    modality: str
    model_dir: Path
    device: torch.device
    seed: int = 0
    step_scale: float = 1.0
    labeled_only: bool = False
    pretrained: bool = True
    idle: bool = False
    cache_gb: int = 50
    one_piece: bool = True

    @property
    def folder(self) -> ModelFolder:
        """Where everything lies in `model_dir`."""
        return ModelFolder(self.model_dir)
