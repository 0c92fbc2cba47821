"""Open the generalist for a pool: its slice axis, and the labels it is heeded on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from uncol.data.crops import CropMap
from uncol.data.labels import IGNORE_VALUE
from uncol.data.prepared import TrainingCase
from uncol.data.stack import thick_axis
from uncol.generalist.cache import EmbeddingCache
from uncol.generalist.models import load_foundation_model
from uncol.generalist.models.protocol import FoundationModel
from uncol.generalist.pool import Generalist
from uncol.method.recipe import Recipe
from uncol.round_settings import RoundSettings
from uncol.storage.files import GIB

AXIS_TRIALS = 3  # annotated cases on which the slice axis is tried


def open_generalist(
    labeled: Sequence[TrainingCase], recipe: Recipe, settings: RoundSettings
) -> Generalist | None:
    """Load the generalist of the settings and choose its slice axis; None for `none`.

    Args:
        labeled: annotated cases, on the first of which the axis is tried.
        recipe: what the run does.
        settings: name, weights, cache folder, device and seed.

    Raises:
        WeightsError: it cannot be loaded.
    """
    model = load_foundation_model(
        settings.generalist,
        weights=settings.generalist_weights,
        weights_dir=settings.folder.downloads,
    )
    if model is None:
        return None
    model.network.to(settings.device)
    cache = EmbeddingCache(settings.folder.encoded_cache, limit_bytes=settings.cache_gb * GIB)

    def make(axis: int) -> Generalist:
        return Generalist(
            model,
            cache,
            axis=axis,
            recipe=recipe,
            device=settings.device,
            generator=np.random.default_rng(settings.seed),
        )

    return make(better_axis(model, labeled[:AXIS_TRIALS], make))


def better_axis(
    model: FoundationModel,
    cases: Iterable[TrainingCase],
    make: Callable[[int], Generalist],
) -> int:
    """Choose the slice axis on which the generalist agrees best with annotations.

    Args:
        model: a 2D generalist; a 3D one has no slice axis and gets 2.
        cases: annotated cases to try on.
        make: makes a generalist for an axis.
    """
    cases = list(cases)
    if model.dims == 3:
        return 2
    if not cases:
        return 2
    thick = thick_axis(cases[0].spacing_mm, cases[0].shape)
    if thick is not None:
        return thick
    return max(range(3), key=lambda axis: _agreement(make(axis), cases))


def _agreement(generalist: Generalist, cases: Iterable[TrainingCase]) -> float:
    """Return the mean overlap of prompted probabilities and annotation on one view per case."""
    scores = []
    for case in cases:
        if case.label is None:
            continue
        generalist.look(case, 1)
        classes = int(case.label[0][case.label[0] != IGNORE_VALUE].max(initial=0)) + 1
        label = generalist.prompt_annotation(case, classes)
        probs, exists = generalist.probs(case.name, CropMap.whole(case.shape), classes)
        predicted, truth = (
            (probs > 0.5) & exists,
            exists[None] & (label[None] == torch.arange(1, classes)[:, None, None, None]),
        )
        total = int(predicted.sum() + truth.sum())
        if truth.any():
            scores.append(2 * int((predicted & truth).sum()) / total)
    return float(np.mean(scores)) if scores else 0.0
