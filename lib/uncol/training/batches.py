"""Draw crops from prepared cases: two streams, annotated and not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uncol.data.augment import CropMap, draw_crop, vary_intensity
from uncol.data.labels import IGNORE_VALUE
from uncol.method.stages import Crops, Knowledge
from uncol.training.generalist import Generalist
from uncol.training.store import TrainingCase, annotated

FOREGROUND_SHARE = 2 / 3  # of annotated crops are centred on a labeled voxel
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Drawn:
    """A drawn batch.

    Attributes:
        crops: as the student sees them.
        clean: images `(B, 1, I, J, K)` before intensities were varied; teachers see these.
        places: where each crop lies.
        names: each crop's case.
    """

    crops: Crops
    clean: Tensor
    places: list[CropMap]
    names: list[str]


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
            generalist: where teacher features come from, or None.
            generator: source of randomness, shared by the run.
        """
        self.cases = cases
        self.crop = crop
        self.tokens = tokens
        self.generalist = generalist
        self.generator = generator
        self.order: list[int] = []  # cases still to come before they are shuffled anew

    def draw(self, count: int, *, semantic: bool) -> Drawn:
        """Draw a batch.

        Args:
            count: crops.
            semantic: also sample the teacher's prompt-conditioned tokens.
        """
        images, varied, labels, known, places, names = [], [], [], [], [], []
        for _ in range(count):
            case = self._next_case()
            place = draw_crop(
                case.shape, self.crop, center=self._center(case), generator=self.generator
            )
            image = place.sample(case.image, fill=case.low)
            images.append(image)
            varied.append(vary_intensity(image, generator=self.generator))
            labels.append(self._label(case, place))
            if self.generalist is not None:
                known.append(self.generalist.knowledge(case, place, self.tokens, semantic=semantic))
            places.append(place)
            names.append(case.name)
        label, counts = annotated(torch.cat(labels))
        crops = Crops(torch.stack(varied), label, counts, stack_knowledge(known))
        return Drawn(crops, torch.stack(images), places, names)

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
