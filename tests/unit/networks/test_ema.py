import pytest
import torch
from torch import nn

from uncol.networks.ema import make_specialist, update_specialist


@pytest.fixture
def pair():
    """A student with all weights 1 and a specialist with all weights 0."""
    student = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    specialist = make_specialist(student)
    for network, value in ((student, 1.0), (specialist, 0.0)):
        for parameter in network.parameters():
            parameter.data.fill_(value)
    return specialist, student


def first_weight(network):
    return float(next(network.parameters()).detach().flatten()[0])


@pytest.mark.parametrize(("step", "expected"), [(1, 0.5), (3, 0.25), (99, 0.01), (5000, 0.01)])
def test_the_specialist_moves_by_one_minus_mu(pair, step, expected):
    specialist, student = pair
    update_specialist(specialist, student, step=step, momentum=0.99)
    assert first_weight(specialist) == pytest.approx(expected)
    assert first_weight(student) == 1.0


def test_many_steps_are_the_weighted_sum_of_all_students(pair):
    specialist, student = pair
    expected = 0.0
    for step in range(1, 30):
        student[0].weight.data.fill_(float(step))
        update_specialist(specialist, student, step=step + 500, momentum=0.9)
        expected = 0.9 * expected + 0.1 * step
    assert first_weight(specialist) == pytest.approx(expected, rel=1e-5)


def test_batch_statistics_are_not_the_student_s(pair):
    specialist, student = pair
    student.train()(torch.randn(4, 1, 3, 3) * 5 + 3)
    before = specialist[1].running_mean.clone()
    update_specialist(specialist, student, step=1, momentum=0.99)
    assert torch.equal(specialist[1].running_mean, before)


def test_a_new_specialist_is_a_frozen_copy_in_evaluation_mode():
    student = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    specialist = make_specialist(student)
    assert not specialist.training
    assert student.training
    assert not any(parameter.requires_grad for parameter in specialist.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    student[0].weight.data.zero_()
    assert specialist[0].weight.abs().sum() > 0


def test_networks_of_different_depth_do_not_mix():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        update_specialist(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), step=1, momentum=0.9)
