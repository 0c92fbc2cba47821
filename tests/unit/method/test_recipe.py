from dataclasses import fields, replace

import pytest

from uncol.method.recipe import INTENDED, RECIPES, RELEASED, Recipe

PARTS = ("semantic", "visual", "generalist", "specialist")  # of the method, in both
OURS = ("upright", "weigh_generalist", "one_piece", "one_cycle", "deploy_average")
DECISIONS = ("threshold", "mix_until", "mix_from", "window")
COMPARED_ONLY = ("probe",)  # in `uncol benchmark ssl`, in neither
OTHERS = {*PARTS, *OURS, *DECISIONS, *COMPARED_ONLY}
DIFFERENCES = [f.name for f in fields(Recipe) if f.name not in OTHERS]


@pytest.mark.parametrize("switch", DIFFERENCES)
def test_each_difference_is_off_as_intended_and_on_as_released(switch):
    assert getattr(INTENDED, switch) is False
    assert getattr(RELEASED, switch) is True


@pytest.mark.parametrize("switch", OURS)
def test_what_the_released_code_does_not_have_is_off_there(switch):
    assert getattr(INTENDED, switch) is True
    assert getattr(RELEASED, switch) is False


@pytest.mark.parametrize("switch", COMPARED_ONLY)
def test_what_is_only_compared_is_in_no_product(switch):
    assert getattr(INTENDED, switch) is getattr(RELEASED, switch) is False


@pytest.mark.parametrize("part", PARTS)
def test_both_use_all_parts_of_the_method(part):
    assert getattr(INTENDED, part) is getattr(RELEASED, part) is True


def test_users_know_them_by_these_names():
    assert RECIPES == {"intended": INTENDED, "release": RELEASED}


def test_nobody_mixes_before_it_is_decided_how_long():
    with pytest.raises(ValueError, match="with_mixing"):
        INTENDED.mixes(0.0)


def test_crops_of_a_small_part_of_a_scan_are_not_mixed():
    assert INTENDED.with_mixing(0.5, crop_share=0.39).mix_until == 0.0
    assert INTENDED.with_mixing(0.5, crop_share=0.4).mix_until == 0.5
    told = replace(INTENDED, mix_until=1.0)  # a recipe's own value wins
    assert told.with_mixing(0.5, crop_share=0.1) == told
