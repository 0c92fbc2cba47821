"""Prompt a generalist on one view with one mask per class, as boxes or as clicks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from uncol.data.masks import largest_component, tight_box
from uncol.generalist.letterbox import Letterbox
from uncol.generalist.models.protocol import FoundationModel, Prompted, Prompts
from uncol.generalist.prompts import MARGIN, certain_clicks, random_click
from uncol.method.recipe import Recipe
from uncol.types import Array

CLICKS = 5


@dataclass(frozen=True)
class ViewAnswer:
    """A generalist's answer on one view.

    Attributes:
        probs: `(C - 1, *region)`, sigmoid of the mask logits; 0 for an absent class.
        tokens: `((C - 1) * D, *grid)`, prompt-conditioned tokens; 0 for an absent class.
    """

    probs: Tensor
    tokens: Tensor


def class_masks(mask: Tensor, classes: int) -> list[Array]:
    """Return each foreground class's largest component in a region, bool arrays."""
    values = mask.cpu().numpy()
    return [largest_component(values == value) for value in range(1, classes)]


def prompt_view(
    model: FoundationModel,
    image: Tensor,
    targets: list[Array | None],
    box: Letterbox,
    *,
    uncertainty: Tensor | None,
    recipe: Recipe,
    generator: np.random.Generator,
) -> ViewAnswer:
    """Prompt one encoded view for every class.

    An absent class gets no box, because a whole-image box makes MedSAM invent foreground. It gets
    clicks on certain background if the masks are pseudo-labels.

    Args:
        model: the generalist.
        image: `(1, D, *grid)`, the encoded view.
        targets: each class's mask in the region, `(*region)` bool; None for one not asked for.
        box: the way between region and view.
        uncertainty: the specialist's, `(*region)`; None when the masks are annotations.
        recipe: what the run does.
        generator: source of randomness for clicks.
    """
    grid = image.shape[2:]
    probs = torch.zeros(len(targets), *box.shape)
    tokens = torch.zeros(len(targets), model.token_channels, *grid)
    memory: Tensor | None = None
    for row, target in enumerate(targets):
        if target is None:
            continue
        if not target.any() and (model.takes_boxes or uncertainty is None):
            continue
        if model.takes_boxes:
            prompted = _by_box(model, image, target, box)
        else:
            if not recipe.mask_memory_carried_over:
                memory = None  # difference 5: the released code keeps the last class's mask
            prompted = _by_clicks(
                model, image, target, box, uncertainty, memory, recipe=recipe, generator=generator
            )
            memory = prompted.logits
        probs[row] = box.grow(prompted.logits)[0].sigmoid().cpu()
        tokens[row] = prompted.tokens[0].cpu()
    return ViewAnswer(probs, tokens.flatten(0, 1))


def _by_box(model: FoundationModel, image: Tensor, target: Array, box: Letterbox) -> Prompted:
    margin = MARGIN * float(box.extent.max())
    corners = torch.from_numpy(tight_box(target, margin=margin))[None]
    return model.prompt(image, Prompts(boxes=box.boxes_to_view(corners)))


def _by_clicks(
    model: FoundationModel,
    image: Tensor,
    target: Array,
    box: Letterbox,
    uncertainty: Tensor | None,
    memory: Tensor | None,
    *,
    recipe: Recipe,
    generator: np.random.Generator,
) -> Prompted:
    """Give up to five clicks one after the other, each with the mask of the step before."""
    clicks = torch.zeros(0, 3)
    kinds = torch.zeros(0)
    certain = None
    if uncertainty is not None:
        certain = certain_clicks(
            torch.from_numpy(target), uncertainty, CLICKS, released=recipe.shifted_clicks
        )
    predicted = np.zeros_like(target)
    prompted: Prompted | None = None
    for step in range(CLICKS):
        if certain is None:
            drawn = random_click(target, predicted, generator=generator)
            if drawn is None:
                break
            voxel, kind = torch.from_numpy(drawn[0]).float(), float(drawn[1])
        else:
            if step >= len(certain[0]):
                break
            voxel, kind = certain[0][step].float(), float(certain[1][step])
        clicks = torch.cat([clicks, voxel[None]])
        kinds = torch.cat([kinds, torch.tensor([kind])])
        prompted = model.prompt(
            image,
            Prompts(clicks=box.clicks_to_view(clicks)[None], kinds=kinds[None], memory=memory),
        )
        memory = prompted.logits
        threshold = (
            0.5 if recipe.mask_memory_carried_over else 0.0
        )  # difference 5: 0.5 applied to logits
        predicted = (box.grow(prompted.logits)[0] > threshold).cpu().numpy()
    if prompted is None:
        raise ValueError("a click needs a mask that differs from an empty one")
    return prompted
