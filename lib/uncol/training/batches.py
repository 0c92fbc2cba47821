"""Draw crops from prepared cases: two streams, annotated and not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uncol.data.annotation import annotated
from uncol.data.crops import CropMap
from uncol.data.labels import IGNORE_VALUE
from uncol.data.prepared import TrainingCase
from uncol.generalist.pool import Generalist
from uncol.method.stages import Crops, Knowledge
from uncol.training.augment import draw_crop, vary_intensity
from uncol.types import Shape

FOREGROUND_SHARE = 2 / 3  # of annotated crops are centred on a labeled voxel


@dataclass(frozen=True)
class Drawn:
    """A drawn batch.

    Attributes:
        crops: as the student sees them.
        clean: images `(B, 1, I, J, K)` as the specialist sees them, intensities not varied.
        places: where each crop lies.
        views: where each clean image lies: at the crop's place, or upright around its centre.
        names: each crop's case.
    """

    crops: Crops
    clean: Tensor
    places: list[CropMap]
    views: list[CropMap]
    names: list[str]

    def in_crops(self, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Resample what the specialist says about the clean images into the crops.

        Args:
            probs: `(B, C, I, J, K)` class probabilities in the clean images.

        Returns:
            The same in the crops, and `(B, I, J, K)` bool, where in the crops the specialist saw
            anything; elsewhere all classes are equally probable.
        """
        turned, seen = [], []
        for said, place, view in zip(probs, self.places, self.views, strict=True):
            if place is view:
                turned.append(said)
                seen.append(torch.ones_like(said[0], dtype=torch.bool))
                continue
            there = place.within(view)
            share = there.sample(torch.ones_like(said[:1]))
            known = share > 0.5
            turned.append(torch.where(known, there.sample(said) / share, 1 / len(said)))
            seen.append(known[0])
        return torch.stack(turned), torch.stack(seen)


class CropSource:
    """Draws batches of crops from cases, in an order that only the generator decides."""

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        crop: Shape,
        tokens: Shape,
        *,
        generalist: Generalist | None,
        generator: torch.Generator,
    ) -> None:
        """Make a source.

        Args:
            cases: prepared cases, at least one.
            crop: crop size in voxels.
            tokens: the student's token grid for a crop.
            generalist: where generalist features come from, or None.
            generator: source of randomness, shared by the run.
        """
        self.cases = cases
        self.crop = crop
        self.tokens = tokens
        self.generalist = generalist
        self.generator = generator
        self.order: list[int] = []  # cases still to come before the next shuffle

    def draw(self, count: int, *, semantic: bool, upright: bool = False) -> Drawn:
        """Draw a batch.

        Args:
            count: crops.
            semantic: also sample the generalist's prompt-conditioned tokens.
            upright: show the specialist upright views instead of the crops.
        """
        clean, varied, labels, known = [], [], [], []
        places, views, names = [], [], []
        for _ in range(count):
            case = self._next_case()
            place = draw_crop(
                case.shape, self.crop, center=self._center(case), generator=self.generator
            )
            image = place.sample(case.image, fill=case.low)
            view = place.upright() if upright else place
            clean.append(image if view is place else view.sample(case.image, fill=case.low))
            varied.append(vary_intensity(image, generator=self.generator))
            labels.append(self._label(case, place))
            if self.generalist is not None:
                known.append(self.generalist.knowledge(case, place, self.tokens, semantic=semantic))
            places.append(place)
            views.append(view)
            names.append(case.name)
        label, counts = annotated(torch.cat(labels))
        crops = Crops(torch.stack(varied), label, counts, stack_knowledge(known))
        return Drawn(crops, torch.stack(clean), places, views, names)

    def _next_case(self) -> TrainingCase:
        if not self.order:
            self.order = torch.randperm(len(self.cases), generator=self.generator).tolist()
        return self.cases[self.order.pop()]

    def _center(self, case: TrainingCase) -> Tensor | None:
        chance = float(torch.rand((), generator=self.generator))
        if not case.centers or chance > FOREGROUND_SHARE:
            return None
        pick = int(torch.randint(len(case.centers), (), generator=self.generator))
        voxels = case.centers[pick]
        return voxels[int(torch.randint(len(voxels), (), generator=self.generator))]

    def _label(self, case: TrainingCase, place: CropMap) -> Tensor:
        if case.label is None:
            return torch.full((1, *self.crop), IGNORE_VALUE)
        return place.sample(case.label, nearest=True).long()


def stack_knowledge(parts: Sequence[Knowledge]) -> Knowledge | None:
    """Join single crops' knowledge into a batch; None if there is none."""
    if not parts:
        return None
    hidden = tuple(torch.cat(level) for level in zip(*(p.hidden for p in parts), strict=True))
    tokens = [p.semantic for p in parts if p.semantic is not None]
    semantic = torch.cat(tokens) if len(tokens) == len(parts) else None
    return Knowledge(hidden, semantic, torch.cat([p.valid for p in parts]))
