"""The generalist on a pool: encode once, keep on disk, prompt as often as needed."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uncol.data.crops import CropMap
from uncol.data.masks import PooledDice, filled_box
from uncol.data.prepared import TrainingCase
from uncol.generalist.cache import EmbeddingCache
from uncol.generalist.encode import region_of, view_key
from uncol.generalist.letterbox import even_slices, letterbox_of, plane_axes, slices_along
from uncol.generalist.models.protocol import Encoded, FoundationModel
from uncol.generalist.probe import AnnotatedView, Probe
from uncol.generalist.prompting import class_masks, prompt_view
from uncol.generalist.seen import Seen, Views
from uncol.method.recipe import Recipe
from uncol.method.stages import Knowledge
from uncol.types import Array, Shape

HIDDEN_GRID = 16  # generalist states are pooled to this many tokens per side
REACH = 0.75  # a slice speaks for tokens up to this many token sizes away


@dataclass(frozen=True)
class Worth:
    """How well the generalist finds a label from a perfect box, compared with the box itself.

    Attributes:
        dice: of its masks on annotated views; NaN where none has the label.
        box: of the boxes, filled.
    """

    dice: float
    box: float

    @property
    def heeded(self) -> bool:
        """Whether it is at least as good as the box, or was never compared."""
        return not self.dice < self.box


class Generalist:
    """Holds what a generalist knows about each case of a run, and samples it for crops."""

    def __init__(
        self,
        model: FoundationModel,
        cache: EmbeddingCache,
        *,
        axis: int,
        recipe: Recipe,
        device: torch.device,
        generator: np.random.Generator,
    ) -> None:
        """Wrap a foundation model.

        Args:
            model: the frozen foundation model, on `device`.
            cache: where embeddings are kept.
            axis: slice axis for a 2D generalist.
            recipe: what the run does.
            device: where the generalist runs.
            generator: source of randomness for clicks.
        """
        self.model = model
        self.cache = cache
        self.axis = None if model.dims == 3 else axis
        self.recipe = recipe
        self.device = device
        self.generator = generator
        self.silent: frozenset[int] = frozenset()  # values of labels its prompts are not heeded on
        self.probe: Probe | None = None  # answers for its labels without being prompted
        self._seen: dict[str, Seen] = {}
        self._feature_bytes = 0

    def view_bytes(self, case: TrainingCase, count: int, classes: int) -> int:
        """Return the bytes on disk of each of `count` views of a case: features and masks."""
        if not self._feature_bytes:  # the same for all cases
            views = self._views(case, count)
            encoded = self._encoded(case, views, views.indices[0])
            self._feature_bytes = 2 * sum(one.numel() for one in (encoded.image, *encoded.hidden))
        voxels = math.prod(case.shape)
        plane = voxels if self.axis is None else voxels // case.shape[self.axis]
        return self._feature_bytes + 2 * (classes - 1) * plane

    def look(self, case: TrainingCase, count: int) -> None:
        """Encode up to `count` evenly spread views of a case, or fetch them from the cache."""
        views = self._views(case, count)
        encoded = [self._encoded(case, views, index) for index in views.indices]
        hidden = tuple(
            self._kept(views.stack(torch.stack([e.hidden[level][0] for e in encoded])).half())
            for level in range(len(self.model.hidden_channels))
        )
        slices = case.shape[2 if self.axis is None else self.axis]
        lookup = torch.full((slices,), -1)
        rows = list(range(slices)) if self.axis is None else views.indices
        lookup[rows] = torch.arange(len(rows))
        self._seen[case.name] = Seen(views, hidden, None, None, lookup)

    def prompt_annotation(self, case: TrainingCase, classes: int) -> Tensor:
        """Prompt every view of an annotated case with its annotation.

        Returns:
            The annotation `(I, J, K)` as class indices.

        Raises:
            ValueError: the case is not annotated.
        """
        label = case.annotation()
        self.prompt(case, label, classes, None)
        return label

    def prompt(
        self, case: TrainingCase, mask: Tensor, classes: int, uncertainty: Tensor | None
    ) -> None:
        """Prompt every view of a case with a mask; keep probabilities, and tokens if annotated.

        Args:
            case: a case that was looked at.
            mask: `(I, J, K)` class indices: annotation (stage 1) or specialist's mask (stage 2).
            classes: number of classes, background included.
            uncertainty: `(I, J, K)` of the specialist, in [0, 1], or None for an annotation.
        """
        seen = self._seen[case.name]
        probs, tokens = [], []
        for index in seen.views.indices:
            encoded = self._encoded(case, seen.views, index)
            targets: list[Array | None] = list(class_masks(self._region(mask, index), classes))
            if uncertainty is not None:  # annotations are prompted to learn what it is worth
                for value in self.silent | self._probed:
                    targets[value - 1] = None
            unsure = None if uncertainty is None else self._region(uncertainty, index)
            answer = prompt_view(
                self.model,
                encoded.image.to(self.device).float(),
                targets,
                seen.views.box,
                uncertainty=unsure,
                recipe=self.recipe,
                generator=self.generator,
            )
            if uncertainty is not None and self.probe is not None:
                self.probe.answer_(answer.probs, encoded.image, seen.views.box)
            probs.append(answer.probs.half().cpu())
            tokens.append(_pool(answer.tokens[None])[0].half().cpu())
        seen.probs = self._kept(self._rows(probs))
        if uncertainty is None:  # the semantic path needs annotation; stage 2 has none
            seen.semantic = self._kept(seen.views.stack(torch.stack(tokens)))

    def forget(self, case: TrainingCase) -> None:
        """Forget the masks of a case that was looked at."""
        self._seen[case.name].probs = None

    def weigh(self, cases: Sequence[TrainingCase], classes: int) -> list[Worth]:
        """Compare its masks with annotations, and stop heeding it on labels where it does not help.

        LiteMedSAM takes a ring (myocardium) for the disc in it and does worse than the filled box.

        Args:
            cases: annotated cases, prompted with their annotation.
            classes: number of classes, background included.

        Returns:
            What it is worth, per label.
        """
        own, boxes = PooledDice(classes), PooledDice(classes)
        for value, mask, truth in self._annotated_masks(cases, classes):
            own.add_masks(value, mask, truth)
            boxes.add_masks(value, filled_box(truth), truth)
        worths = [Worth(*pair) for pair in zip(own.values, boxes.values, strict=True)]
        self.silent = frozenset(v for v, worth in enumerate(worths, start=1) if not worth.heeded)
        return worths

    def annotated_views(self, cases: Sequence[TrainingCase]) -> Iterator[AnnotatedView]:
        """Yield every view of annotated cases that were looked at, with its annotation."""
        for case in cases:
            views = self._seen[case.name].views
            if case.label is None:
                continue
            label = torch.from_numpy(np.array(case.label[0]))
            for index in views.indices:
                image = self._encoded(case, views, index).image
                yield AnnotatedView(case.name, image, self._region(label, index), views.box)

    def _annotated_masks(
        self, cases: Sequence[TrainingCase], classes: int
    ) -> Iterator[tuple[int, Array, Array]]:
        """Yield value, mask and annotation of each label in each annotated view."""
        for case in cases:
            seen = self._seen[case.name]
            if case.label is None or seen.probs is None:
                continue
            label = case.annotation()
            for row, index in enumerate(seen.views.indices):
                probs = seen.probs.movedim(1, -1) if self.axis is None else seen.probs[:, row]
                masks = class_masks(self._region(label, index), classes)
                for value, truth in enumerate(masks, start=1):
                    if truth.any():  # else it was not asked
                        yield value, probs[value - 1].numpy() > 0.5, truth

    def has_a_say(self, classes: int) -> bool:
        """Return whether it is heeded on any label."""
        return len(self._unheeded) < classes - 1

    @property
    def _probed(self) -> frozenset[int]:
        return frozenset() if self.probe is None else self.probe.values

    @property
    def _unheeded(self) -> frozenset[int]:
        return self.silent - self._probed

    def describe(self, case: TrainingCase, count: int) -> Tensor:
        """Return a case's place in the generalist's space: pooled image features `(d,)`.

        Args:
            case: any case.
            count: views to pool over.
        """
        views = self._views(case, count)
        images = [self._encoded(case, views, index).image.float() for index in views.indices]
        return torch.stack([image.flatten(2).mean(dim=2)[0] for image in images]).mean(dim=0)

    def knowledge(
        self, case: TrainingCase, place: CropMap, tokens: Shape, *, semantic: bool
    ) -> Knowledge:
        """Sample a case's generalist features on a crop's token grid; batch of one."""
        seen = self._seen[case.name]
        points = place.places(tokens)  # (*tokens, 3)
        hidden = tuple(_sample(level, points, seen.views.extent) for level in seen.hidden)
        known = None
        if semantic and seen.semantic is not None:
            known = _sample(seen.semantic, points, seen.views.extent)
        return Knowledge(hidden, known, _valid(points, place, seen)[None, None])

    def probs(self, name: str, place: CropMap, classes: int) -> tuple[Tensor, Tensor]:
        """Sample a case's mask probabilities on a crop's voxels, nearest.

        If it is not heeded on some label, what it calls background may be that label. Then
        probabilities exist only inside the masks of the other labels.

        Returns:
            `(C - 1, I, J, K)`, and where they exist `(I, J, K)` bool.
        """
        seen = self._seen.get(name)
        if seen is None or seen.probs is None:
            empty = torch.zeros(place.shape, dtype=torch.bool)
            return torch.zeros(classes - 1, *place.shape), empty
        voxels = place.places(place.shape).round().long()
        size = torch.tensor(seen.views.size)
        inside = ((voxels >= 0) & (voxels < size)).all(dim=-1)
        voxels = voxels.clamp_min(0).minimum(size - 1)
        axis = 2 if self.axis is None else self.axis
        first, second = plane_axes(axis)
        row = seen.lookup[voxels[..., axis]]
        exists = inside & (row >= 0)
        place_in = (row.clamp_min(0), voxels[..., first], voxels[..., second])
        values = seen.probs[:, *place_in]
        if self._unheeded:
            exists = exists & (values > 0.5).any(dim=0)
        return values.float() * exists, exists

    def _rows(self, views: Sequence[Tensor]) -> Tensor:
        """Stack maps of the views `(..., *region)` to `(..., n, p, q)`, slice axis first."""
        if self.axis is None:
            return views[0].movedim(-1, -3)
        return torch.stack(list(views), dim=-3)

    def _views(self, case: TrainingCase, count: int) -> Views:
        box = letterbox_of(case.shape, case.spacing_mm, self.axis, self.model.side)
        indices = [0] if self.axis is None else even_slices(case.shape[self.axis], count)
        return Views(self.axis, indices, box, case.shape)

    def _kept(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor in a mapped file: memory holds only what was used last.

        The file no longer has a name, so its space is freed when the process ends, however it ends.
        """
        with tempfile.NamedTemporaryFile(dir=self.cache.folder, prefix=".seen-") as file:
            size = tensor.numel()
            mapped = torch.from_file(file.name, shared=True, size=size, dtype=tensor.dtype)
        return mapped.copy_(tensor.flatten()).view(tensor.shape)

    def _region(self, volume: Tensor, index: int) -> Tensor:
        return volume if self.axis is None else slices_along(volume, self.axis, [index])[0]

    def _encoded(self, case: TrainingCase, views: Views, index: int) -> Encoded:
        raw = self.recipe.raw_states
        key = view_key(case.key, self.axis, index, self.model.fingerprint, raw)

        def compute() -> Encoded:
            region = region_of(case.image[0], self.axis, index)
            view = views.box.shrink(region[None]).to(self.device)
            encoded = self.model.encode(view)
            states = self.model.encode(view, raw=True).hidden if raw else encoded.hidden
            return Encoded(encoded.image, tuple(_pool(state) for state in states))

        return self.cache.get(key, compute)


def _pool(state: Tensor) -> Tensor:
    if state.shape[-1] <= HIDDEN_GRID:  # 3D generalists have 8 tokens per side
        return state
    return F.adaptive_avg_pool2d(state, HIDDEN_GRID)


def _sample(volume: Tensor, points: Tensor, extent: Array) -> Tensor:
    """Sample `(w, a, b, c)` that covers `extent` voxels at voxel places `(*tokens, 3)`."""
    unit = (2 * points + 1) / torch.tensor(extent, dtype=torch.float32) - 1
    return F.grid_sample(
        volume[None].float(),
        unit.flip(-1)[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )


def _valid(points: Tensor, place: CropMap, seen: Seen) -> Tensor:
    """Return `(*tokens)`: 1 where a token lies in the scan and near a view, else 0."""
    size = torch.tensor(seen.views.size)
    inside = ((points >= -0.5) & (points <= size - 0.5)).all(dim=-1)
    axis = seen.views.axis
    if axis is None:
        return inside.float()
    token = place.shape[axis] / points.shape[axis]
    gaps = (points[..., axis, None] - torch.tensor(seen.views.indices)).abs().amin(dim=-1)
    return (inside & (gaps <= max(REACH * token, 0.5))).float()
