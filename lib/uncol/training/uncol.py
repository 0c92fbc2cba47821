"""UnCoL as a method: what a step of each stage learns from (docs/method.md sections 2.2 to 2.5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from uncol.data.crops import CropMap
from uncol.method import schedules, stages
from uncol.method.fusion import PseudoLabel, fuse, generalist_probs
from uncol.method.stages import Crops, with_pseudo_label
from uncol.networks.arithmetic import fast_arithmetic
from uncol.training.batches import Drawn
from uncol.training.composition import compose
from uncol.training.step import Batch, Method, StepResult, on_device


def stage1(batch: Batch) -> StepResult:
    """Learn from annotated crops and the generalist's features."""
    recipe, count = batch.recipe, batch.preset.batch
    drawn = batch.annotated.draw(count, semantic=recipe.semantic)
    with fast_arithmetic(batch.device):
        losses = stages.pretrain(
            batch.run.student,
            batch.run.adapters,
            on_device(drawn.crops, batch.device),
            batch.mask(count),
            weight=schedules.distillation_weight(batch.step, batch.steps),
            visual_too=recipe.visual,
            softmax_twice=recipe.softmax_twice_in_dice,
        )
    return StepResult(losses, {})  # no pseudo-labels yet


def pseudo_label(batch: Batch, drawn: Drawn) -> PseudoLabel:
    """Return what specialist and generalist say about drawn crops, through the gate."""
    recipe = batch.recipe
    with fast_arithmetic(batch.device):
        output = batch.run.specialist(drawn.clean.to(batch.device))
    specialist, seen = drawn.in_crops(output.mean_logits.float().softmax(dim=1))
    foreground, available = _generalist_says(batch, drawn, classes=specialist.shape[1])
    threshold = recipe.threshold
    if threshold is None:
        threshold = schedules.trust_threshold(batch.step, batch.steps)
    return fuse(
        specialist,
        generalist_probs(foreground, softmax_over_probabilities=recipe.softmax_over_probabilities),
        available & recipe.generalist,
        threshold=threshold,
        seen=seen & recipe.specialist,
    )


def stage2(batch: Batch, guess: Callable[[Batch, Drawn], PseudoLabel] = pseudo_label) -> StepResult:
    """Learn from annotated crops, and from crops of unlabeled scans with a pseudo-label.

    Args:
        batch: what there is to learn from.
        guess: gives drawn crops their pseudo-label.
    """
    made_of = compose(
        batch.preset.batch, batch.progress, mixed=batch.mixed, unlabeled=batch.unlabeled
    )
    labeled = batch.annotated.draw(made_of.annotated, semantic=False)
    upright = batch.recipe.upright and batch.unlabeled  # only where something is guessed
    drawn = batch.others.draw(made_of.others, semantic=False, upright=upright)
    crops, trust = _with_targets(batch, drawn, guess)
    with fast_arithmetic(batch.device):
        losses = stages.finetune(
            batch.run.student,
            batch.run.adapters,
            on_device(labeled.crops, batch.device),
            crops,
            batch.mask(made_of.annotated),
            pseudo_weight=made_of.weight,
            visual_too=batch.recipe.visual,
        )
    return StepResult(losses, trust)


def trust_shares(pseudo: PseudoLabel) -> dict[str, float]:
    """Return the share of voxels that passed the gate, by who vouches for them.

    Voxels that one of them did not see, such as the corners of a turned crop, do not pass for it.
    """
    return {
        "trust_generalist": float(pseudo.generalist.float().mean()),
        "trust_specialist": float(pseudo.specialist.float().mean()),
        "trust_any": float(pseudo.trusted.float().mean()),
    }


UNCOL = Method(stage1, stage2)


def _with_targets(
    batch: Batch, drawn: Drawn, guess: Callable[[Batch, Drawn], PseudoLabel]
) -> tuple[Crops, dict[str, float]]:
    """Give unlabeled crops their pseudo-label; annotated ones keep their annotation."""
    crops = on_device(drawn.crops, batch.device)
    if not batch.unlabeled:
        return crops, {}
    with torch.no_grad():
        pseudo = guess(batch, drawn)
    return with_pseudo_label(crops, pseudo), trust_shares(pseudo)


def _generalist_says(batch: Batch, drawn: Drawn, *, classes: int) -> tuple[Tensor, Tensor]:
    """Return the generalist's masks `(B, C - 1, I, J, K)`, and where they exist `(B, I, J, K)`."""

    def of_crop(name: str, place: CropMap) -> tuple[Tensor, Tensor]:
        if batch.generalist is None:
            nothing = torch.zeros(place.shape, dtype=torch.bool)
            return torch.zeros(classes - 1, *place.shape), nothing
        return batch.generalist.probs(name, place, classes)

    masks = [of_crop(*crop) for crop in zip(drawn.names, drawn.places, strict=True)]
    foreground = torch.stack([probs for probs, _ in masks]).to(batch.device)
    return foreground, torch.stack([exists for _, exists in masks]).to(batch.device)
