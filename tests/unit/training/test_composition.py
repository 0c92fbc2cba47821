from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.method.recipe import INTENDED, RELEASED
from uncol.method.stages import PSEUDO_WEIGHT
from uncol.training.composition import Composition, compose
from uncol.training.presets import PRESETS

SMALL, PAPER = PRESETS["small3d"], PRESETS["paper3d"]


@pytest.mark.parametrize(
    ("preset", "recipe", "mixed"),
    [
        (SMALL, INTENDED, [True, True, False, False]),
        (PAPER, INTENDED, [True] * 4),
        (replace(PAPER, mix_until=0.0), INTENDED, [False] * 4),
        (SMALL, RELEASED, [True] * 4),
        (SMALL, replace(INTENDED, mix_until=1.0), [True] * 4),
        (PAPER, replace(RELEASED, mix_until=0.0), [False] * 4),
    ],
)
def test_the_preset_decides_how_long_to_mix_unless_the_code_or_an_ablation_does(
    preset, recipe, mixed
):
    shares = (0.0, 0.49, 0.5, 0.99)
    decided = recipe.with_mixing(preset.mix_until)
    assert [decided.mixes(share) for share in shares] == mixed


@given(st.integers(1, 16), st.floats(0, 1))
def test_whole_crops_are_all_annotated_and_no_more_pseudo_labeled(batch, progress):
    made_of = compose(batch, progress, mixed=False, unlabeled=True)
    assert made_of.annotated == batch
    assert 1 <= made_of.others <= batch
    assert 0 < made_of.weight <= PSEUDO_WEIGHT


def test_mixed_crops_are_as_many_of_both_kinds():
    assert compose(4, 0.0, mixed=True, unlabeled=True) == Composition(2, 2, PSEUDO_WEIGHT)


def test_without_unlabeled_scans_all_crops_count_alike():
    assert compose(4, 0.0, mixed=False, unlabeled=False) == Composition(2, 2, 1.0)
