import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.training.plan import EVERY_SLICE, make_plan

CASES = st.integers(0, 3000)


@given(CASES, CASES, st.booleans(), st.floats(0.0001, 2))
def test_every_plan_can_be_run(labeled, unlabeled, gpu, scale):
    plan = make_plan(labeled, unlabeled, gpu=gpu, scale=scale)
    assert min(plan.pretrain_steps, plan.finetune_steps, plan.prompt_every) >= 1
    assert min(plan.labeled_slices, plan.unlabeled_slices) >= 1
    assert plan.steps == plan.pretrain_steps + plan.finetune_steps
    assert -(-plan.finetune_steps // plan.prompt_every) <= 3  # rounds of prompting


@given(CASES, CASES, st.booleans())
def test_more_cases_never_train_shorter(labeled, unlabeled, gpu):
    fewer = make_plan(labeled, unlabeled, gpu=gpu)
    more = make_plan(labeled + 1, unlabeled + 5, gpu=gpu)
    assert fewer.pretrain_steps <= more.pretrain_steps
    assert fewer.finetune_steps <= more.finetune_steps


@given(st.integers(1, 96), st.integers(1, 96))
def test_on_a_cpu_the_generalist_sees_a_bounded_number_of_slices(labeled, unlabeled):
    plan = make_plan(labeled, unlabeled, gpu=False)
    assert labeled * plan.labeled_slices <= 96
    assert unlabeled * plan.unlabeled_slices <= 96


def test_on_a_gpu_it_sees_them_all_and_the_paper_s_steps_are_the_most():
    plan = make_plan(500, 5000, gpu=True)
    assert (plan.pretrain_steps, plan.finetune_steps) == (15_000, 15_000)
    assert plan.labeled_slices == plan.unlabeled_slices == EVERY_SLICE


def test_the_scale_multiplies_both_stages():
    whole, tenth = make_plan(8, 20, gpu=False), make_plan(8, 20, gpu=False, scale=0.1)
    assert tenth.pretrain_steps == pytest.approx(whole.pretrain_steps / 10, abs=0.5)
    assert tenth.finetune_steps == pytest.approx(whole.finetune_steps / 10, abs=0.5)
