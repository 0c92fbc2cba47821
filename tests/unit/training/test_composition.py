from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.method.mode import MODES
from uncol.method.parts import EVERYTHING, Parts
from uncol.method.stages import PSEUDO_WEIGHT
from uncol.networks.presets import PRESETS
from uncol.training.composition import Composition, compose, mixes

SMALL, PAPER = PRESETS["small3d"], PRESETS["paper3d"]


@pytest.mark.parametrize(
    ("preset", "mode", "parts", "mixed"),
    [
        (SMALL, "intended", EVERYTHING, False),
        (PAPER, "intended", EVERYTHING, True),
        (SMALL, "release", EVERYTHING, True),
        (SMALL, "intended", Parts(mixing=True), True),
        (PAPER, "release", Parts(mixing=False), False),
    ],
)
def test_the_preset_decides_on_mixing_unless_the_code_or_an_ablation_does(
    preset, mode, parts, mixed
):
    assert mixes(preset, MODES[mode], parts) is mixed


@given(st.integers(1, 16), st.floats(0, 1))
def test_whole_crops_are_all_annotated_and_no_more_pseudo_labeled(batch, progress):
    made_of = compose(replace(SMALL, batch=batch), progress, mixed=False, unlabeled=True)
    assert made_of.annotated == batch
    assert 1 <= made_of.others <= batch
    assert 0 < made_of.weight <= PSEUDO_WEIGHT


def test_mixed_crops_are_as_many_of_both_kinds():
    made_of = Composition(2, 2, PSEUDO_WEIGHT)
    assert compose(PAPER, 0.0, mixed=True, unlabeled=True) == made_of
    # an ablation of mixing changes nothing else
    assert compose(PAPER, 0.0, mixed=False, unlabeled=True) == made_of


def test_without_unlabeled_scans_all_crops_count_alike():
    assert compose(SMALL, 0.0, mixed=False, unlabeled=False) == Composition(2, 2, 1.0)
