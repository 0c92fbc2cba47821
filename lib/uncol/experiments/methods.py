"""What `uncol benchmark ssl` compares: UnCoL, its ablations, and the field's baselines.

All share the student, voxel size and crops, their augmentation, the optimizer, the steps and the
inference; all but the released code deploy the averaged student. A baseline defines only what it
does differently. Half of the crops of a semi-supervised baseline's step are annotated; so are
UnCoL's while it mixes them. While it does not (`training/composition.py`), it takes the full batch
of `supervised`, and three quarters as many pseudo-labeled crops besides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from uncol.data.masks import largest_component
from uncol.method import schedules
from uncol.method.fusion import PseudoLabel
from uncol.method.losses import dice_ce
from uncol.method.recipe import INTENDED, RELEASED, Recipe
from uncol.method.stages import Losses
from uncol.networks.arithmetic import fast_arithmetic
from uncol.training import uncol
from uncol.training.batches import Drawn
from uncol.training.step import Batch, Method, StepResult, on_device
from uncol.uncertainty.maps import entropy

CONSISTENCY = 0.1  # weight of the consistency term at the end of its ramp (SSL4MIS)
SAMPLES = 8  # noisy passes of UA-MT's specialist
NOISE = 0.1  # standard deviation of their noise, clipped at twice that
Consistency = Callable[[Batch, Tensor, Drawn], Tensor]


def supervised(batch: Batch) -> StepResult:
    """Learn from annotated crops alone, as they are."""
    labeled = on_device(
        batch.annotated.draw(batch.preset.batch, semantic=False).crops, batch.device
    )
    with fast_arithmetic(batch.device):
        logits = batch.run.student(labeled.image).mean_logits
    loss = dice_ce(logits, labeled.label, labeled.counts)
    return StepResult(Losses(loss, {"supervised": float(loss.detach())}), {})


def mean_teacher(batch: Batch) -> StepResult:
    """Mean teacher (Tarvainen and Valpola, NeurIPS 2017): agree with the averaged student."""
    return _consistent(batch, agree)


def ua_mt(batch: Batch) -> StepResult:
    """UA-MT (Yu et al., MICCAI 2019): agree only where the averaged student's passes are sure."""
    return _consistent(batch, agree_where_sure)


def bcp(batch: Batch) -> StepResult:
    """BCP (Bai et al., CVPR 2023): UnCoL's mixing, the averaged student trusted everywhere."""
    return uncol.stage2(batch, guess=largest_pieces)


def agree(batch: Batch, logits: Tensor, drawn: Drawn) -> Tensor:
    """Return the mean square difference to the averaged student, over classes and voxels."""
    target = specialist_says(batch, drawn.clean.to(batch.device))
    return ((logits.float().softmax(dim=1) - target) ** 2).mean()


def agree_where_sure(batch: Batch, logits: Tensor, drawn: Drawn) -> Tensor:
    """Return the same over voxels on which noisy passes of the averaged student are sure."""
    image = drawn.clean.to(batch.device)
    passes = [specialist_says(batch, image + _noise(batch, image)) for _ in range(SAMPLES)]
    unsure = entropy(torch.stack(passes).mean(dim=0))
    sure = unsure < schedules.trust_threshold(batch.step, batch.steps)
    square = (logits.float().softmax(dim=1) - specialist_says(batch, image)) ** 2
    return (square.mean(dim=1) * sure).sum() / sure.sum().clamp_min(1)


def largest_pieces(batch: Batch, drawn: Drawn) -> PseudoLabel:
    """Return UnCoL's pseudo-label with the largest piece of each label alone."""
    pseudo = uncol.pseudo_label(batch, drawn)
    label = pseudo.label.cpu().numpy()
    largest = np.zeros_like(label)
    for item, mask in zip(largest, label, strict=True):
        for value in np.unique(mask[mask > 0]):
            item[largest_component(mask == value)] = value
    return replace(pseudo, label=torch.from_numpy(largest).to(pseudo.label.device))


@torch.no_grad()
def specialist_says(batch: Batch, image: Tensor) -> Tensor:
    """Return the averaged student's probabilities `(B, C, I, J, K)`."""
    with fast_arithmetic(batch.device):
        logits: Tensor = batch.run.specialist(image).mean_logits
    return logits.float().softmax(dim=1)


def _consistent(batch: Batch, consistency: Consistency) -> StepResult:
    """Learn from annotated crops, and from as many unlabeled ones by consistency."""
    count = max(1, batch.preset.batch // 2)
    weight = CONSISTENCY * schedules.sigmoid_ramp(batch.progress)
    labeled = on_device(batch.annotated.draw(count, semantic=False).crops, batch.device)
    drawn = batch.others.draw(count, semantic=False)
    images = torch.cat([labeled.image, drawn.crops.image.to(batch.device)])
    with fast_arithmetic(batch.device):
        logits = batch.run.student(images).mean_logits
    annotated = dice_ce(logits[:count], labeled.label, labeled.counts)
    agreement = consistency(batch, logits[count:], drawn)
    parts = {"supervised": float(annotated.detach()), "consistency": float(agreement.detach())}
    return StepResult(Losses(annotated + weight * agreement, parts), {})


def _noise(batch: Batch, image: Tensor) -> Tensor:
    drawn = torch.randn(image.shape, generator=batch.run.generator) * NOISE
    return drawn.clamp(-2 * NOISE, 2 * NOISE).to(image.device)


@dataclass(frozen=True)
class Contestant:
    """What is compared.

    Attributes:
        method: what its steps learn from.
        recipe: what else it does.
        mode: the setting `mode` that its results carry.
        generalist: whether it has a generalist.
        unlabeled: whether it learns from scans without annotation.
        everything: whether it gets the annotations of all training scans, whatever the budget.
    """

    method: Method = uncol.UNCOL
    recipe: Recipe = INTENDED
    mode: str = "intended"
    generalist: bool = True
    unlabeled: bool = True
    everything: bool = False


SUPERVISED = Contestant(Method(supervised, supervised), generalist=False, unlabeled=False)
COMPARED: dict[str, Contestant] = {
    "supervised": SUPERVISED,
    "mean_teacher": Contestant(Method(supervised, mean_teacher), generalist=False),
    "ua_mt": Contestant(Method(supervised, ua_mt), generalist=False),
    "bcp": Contestant(
        Method(uncol.stage1, bcp),
        replace(INTENDED, threshold=1.0, mix_until=1.0, upright=False),
        generalist=False,
    ),
    "uncol": Contestant(),
    "uncol_release": Contestant(recipe=RELEASED, mode="release"),
    "uncol_no_teacher": Contestant(generalist=False),
    "supervised_all": replace(SUPERVISED, everything=True),
}
ABLATIONS: dict[str, Contestant] = {
    f"uncol_{name}": Contestant(recipe=recipe)
    for name, recipe in {
        "no_visual": replace(INTENDED, visual=False),
        "no_semantic": replace(INTENDED, semantic=False),
        "no_generalist": replace(INTENDED, generalist=False),
        "no_specialist": replace(INTENDED, specialist=False),
        "fixed_gate": replace(INTENDED, threshold=0.75),
        "no_gate": replace(INTENDED, threshold=1.0),
        "no_mixing": replace(INTENDED, mix_until=0.0),
        "mixing": replace(INTENDED, mix_until=1.0),
        "turned_views": replace(INTENDED, upright=False),
        "probe": replace(INTENDED, probe=True),
    }.items()
}
METHODS = {**COMPARED, **ABLATIONS}
