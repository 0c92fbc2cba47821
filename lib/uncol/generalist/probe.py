"""A probe: a small network on the generalist's frozen features, which needs no prompt.

A promptable model says how far a structure reaches once it is told where it is. The specialist that
has to tell it may not know that itself in a short run, least of all in 2D. The frozen features may:
three convolutions on them are fit to the annotated views, and judged on views they were not fit to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.blocks.convolutions import Convolution
from torch import Tensor, nn

from uncol.data.labels import IGNORE_VALUE
from uncol.data.masks import PooledDice
from uncol.generalist.letterbox import Letterbox
from uncol.method.losses import dice_ce
from uncol.method.schedules import polynomial_rate
from uncol.networks.arithmetic import fast_arithmetic
from uncol.uncertainty.calibration import Voxels, error_rates, join, match_temperatures
from uncol.uncertainty.maps import temper_

WIDTH = 64
FEATURE_DROPOUT = 0.5  # of whole features: the annotated views are few, and the features many
STEPS = 300
BATCH = 8  # views per step
PROBE_RATE = 3e-3
PROBE_DECAY = 1e-2
PROBE_CLIP = 5.0
PROBE_FOLDS = 2
KEPT = 0.85  # of its Dice in annotated scans, what a specialist is taken to keep in others; a guess
NEAR_SHARE = 0.05  # of probability, from which on a voxel might be foreground


@dataclass(frozen=True)
class AnnotatedView:
    """A view of an annotated case.

    Attributes:
        case: the case's name.
        image: `(1, D, *grid)`, the generalist's features.
        region: `(*region)` class indices in the scan's voxels, 255 where it is not annotated.
        box: the way between region and view.
    """

    case: str
    image: Tensor
    region: Tensor
    box: Letterbox

    def on_grid(self, classes: int) -> tuple[Tensor, Tensor]:
        """Return the most frequent class of each place of the grid, and where it is annotated.

        Both have three axes, which the losses expect.
        """
        masks = [*(self.region == value for value in range(classes)), self.region != IGNORE_VALUE]
        views = self.box.shrink(torch.stack(masks))
        shares = F.interpolate(views, self.image.shape[2:], mode="area")[:, 0]
        shares = shares if shares.ndim == 4 else shares[..., None]
        return shares[:classes].argmax(dim=0), shares[classes] > 0.5


@dataclass(frozen=True)
class ProbeWorth:
    """What probes that left cases out found in them.

    Attributes:
        dice: per label, over all views; NaN for a label that no view holds.
        temperatures: one per class, at which probabilities are as sure as they are right.
    """

    dice: tuple[float, ...]
    temperatures: tuple[float, ...]


class Probe:
    """What was fit to the annotated views: gives class probabilities of any view.

    Attributes:
        values: values of the labels that it answers for; at first none, see `compare`.
    """

    def __init__(self, network: nn.Module, device: torch.device, judged: ProbeWorth) -> None:
        """Keep a network, in evaluation mode on `device`, and what such networks are worth."""
        self.network = network
        self.device = device
        self.judged = judged
        self.values: frozenset[int] = frozenset()

    def compare(self, specialist: Sequence[float]) -> None:
        """Answer for the labels that it finds better than the specialist does.

        Args:
            specialist: its Dice per label in annotated scans. Unlike the probe's own, it is of
                scans that were learned from, and is worth less elsewhere.
        """
        pairs = enumerate(zip(self.judged.dice, specialist, strict=True), start=1)
        self.values = frozenset(v for v, (own, other) in pairs if own > KEPT * other)

    @torch.no_grad()
    def probs(self, image: Tensor, box: Letterbox) -> Tensor:
        """Return class probabilities `(C, *region)` of an encoded view `(1, D, *grid)`."""
        logits = self.network(image.to(self.device).float())[0].float().cpu()
        probs = box.grow(logits).softmax(dim=0)
        return temper_(probs, probs.argmax(dim=0), self.judged.temperatures)

    def answer_(self, probs: Tensor, image: Tensor, box: Letterbox) -> None:
        """Put what it says of its own labels into probabilities `(C - 1, *region)`, in place."""
        rows = [value - 1 for value in sorted(self.values)]
        probs[rows] = self.probs(image, box)[1:][rows]


def fit(
    views: Sequence[AnnotatedView],
    classes: int,
    *,
    seed: int,
    device: torch.device,
    judged: ProbeWorth,
    steps: int = STEPS,
) -> Probe:
    """Fit a probe to annotated views.

    Args:
        views: at least one, all of one size.
        classes: number of classes, background included.
        seed: of its first weights, its dropout, and the order of views.
        device: where it is fit, and computes afterwards.
        judged: what such probes are worth, see `cross_validate`.
        steps: how long, of `BATCH` views each.
    """
    with torch.random.fork_rng():  # the run's own randomness stays as it is
        torch.manual_seed(seed)
        network = _network(views[0].image, classes).to(device)
        _train(network, views, classes, seed=seed, device=device, steps=steps)
    return Probe(network.eval(), device, judged)


def cross_validate(
    views: Sequence[AnnotatedView],
    classes: int,
    *,
    seed: int,
    device: torch.device,
    steps: int = STEPS,
) -> ProbeWorth | None:
    """Judge probes on cases that they were not fit to; None for fewer than two. As `fit`."""
    cases = sorted({view.case for view in views})
    if len(cases) < PROBE_FOLDS:
        return None
    untempered = ProbeWorth((np.nan,) * (classes - 1), (1.0,) * classes)
    dice, near = PooledDice(classes), []
    halves = np.array_split(cases, PROBE_FOLDS)  # not interleaved: a patient's names are alike
    for fold, judged in enumerate(halves):
        train = [view for view in views if view.case not in judged]
        probe = fit(
            train, classes, seed=seed + 1 + fold, device=device, judged=untempered, steps=steps
        )
        for view in views:
            if view.case in judged:
                probs = probe.probs(view.image, view.box)
                dice.add(probs.argmax(dim=0).numpy(), view.region.numpy())
                near.append(_near(probs, view.region))
    voxels = join(near)
    if not len(voxels.truth):
        return replace(untempered, dice=dice.values)
    rates = error_rates(voxels)
    return ProbeWorth(dice.values, match_temperatures(voxels.probs, rates, cases=len(cases)))


def _train(
    network: nn.Module,
    views: Sequence[AnnotatedView],
    classes: int,
    *,
    seed: int,
    device: torch.device,
    steps: int,
) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), PROBE_RATE, weight_decay=PROBE_DECAY)
    images = torch.cat([view.image for view in views])
    labels, counts = map(torch.stack, zip(*(view.on_grid(classes) for view in views), strict=True))
    for step, chosen in enumerate(_batches(len(views), seed, steps)):
        for group in optimizer.param_groups:
            group["lr"] = polynomial_rate(PROBE_RATE, step, steps)
        with fast_arithmetic(device):
            logits = network(images[chosen].to(device).float())
        logits = logits.reshape(*logits.shape[:2], *labels.shape[1:])
        loss = dice_ce(logits, labels[chosen].to(device), counts[chosen].to(device))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), PROBE_CLIP)
        optimizer.step()


def _network(image: Tensor, classes: int) -> nn.Module:
    dims = image.ndim - 2
    dropout = nn.Dropout2d if dims == 2 else nn.Dropout3d
    norm = ("group", {"num_groups": 8})
    return nn.Sequential(
        dropout(FEATURE_DROPOUT),
        Convolution(dims, image.shape[1], WIDTH, kernel_size=1, norm=norm, act="relu"),
        Convolution(dims, WIDTH, WIDTH, kernel_size=3, norm=norm, act="relu"),
        Convolution(dims, WIDTH, classes, kernel_size=1, conv_only=True),
    )


def _batches(count: int, seed: int, steps: int) -> Iterator[list[int]]:
    """Yield the views of each step: all of them before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        if len(order) < min(BATCH, count):
            order = torch.randperm(count, generator=generator).tolist()
        yield [order.pop() for _ in range(min(BATCH, count))]


def _near(probs: Tensor, region: Tensor) -> Voxels:
    """Return the voxels that are foreground, or might be."""
    chosen = (region != IGNORE_VALUE) & ((region > 0) | (probs[0] < 1 - NEAR_SHARE))
    return Voxels(probs[:, chosen].T.numpy(), region[chosen].numpy())
