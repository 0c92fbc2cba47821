"""One step as a method sees it: what it may learn from, and how far the run is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from uncol.generalist.pool import Generalist
from uncol.method.mixing import copy_paste_mask
from uncol.method.recipe import Recipe
from uncol.method.stages import Crops, Knowledge, Losses
from uncol.training.batches import CropSource
from uncol.training.presets import Preset
from uncol.training.run import Run


@dataclass(frozen=True)
class Batch:
    """What a step may learn from. Crops are drawn when a method asks for them.

    Attributes:
        run: student, specialist, projections and randomness.
        recipe: what the run does.
        preset: crop size, and crops per step.
        generalist: one that has looked at the pool, or None.
        annotated: draws annotated crops.
        others: draws crops of unlabeled scans; of annotated ones if there are none.
        unlabeled: whether there are unlabeled scans.
        step: number of steps of this stage that are done.
        steps: steps of this stage in all.
        mixed: whether crops are copy-pasted into each other.
        device: where the student trains.
    """

    run: Run
    recipe: Recipe
    preset: Preset
    generalist: Generalist | None
    annotated: CropSource
    others: CropSource
    unlabeled: bool
    step: int
    steps: int
    mixed: bool
    device: torch.device

    @property
    def progress(self) -> float:
        """Share of this stage that is done, from 0 to below 1."""
        return self.step / self.steps

    def mask(self, count: int) -> Tensor | None:
        """Draw a copy-paste mask for crops `(count, 1, I, J, K)`; None if they are not mixed."""
        if not self.mixed:
            return None
        mask = copy_paste_mask(count, self.preset.crop, generator=self.run.generator)
        return mask.to(self.device)


@dataclass(frozen=True)
class StepResult:
    """What a step learns from.

    Attributes:
        losses: what is minimized.
        trust: share of unlabeled voxels on which a pseudo-label counts, by who vouches for it.
    """

    losses: Losses
    trust: dict[str, float]


@dataclass(frozen=True)
class Method:
    """How a step of each stage learns; the trainer does everything else.

    Attributes:
        stage1: from a batch to a loss.
        stage2: the same in the second stage.
    """

    stage1: Callable[[Batch], StepResult]
    stage2: Callable[[Batch], StepResult]


def on_device(crops: Crops, device: torch.device) -> Crops:
    """Return crops on a device."""
    known = crops.knowledge
    if known is not None:
        semantic = None if known.semantic is None else known.semantic.to(device)
        hidden = tuple(level.to(device) for level in known.hidden)
        known = Knowledge(hidden, semantic, known.valid.to(device))
    return Crops(crops.image.to(device), crops.label.to(device), crops.counts.to(device), known)
