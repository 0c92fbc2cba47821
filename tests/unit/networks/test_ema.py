import pytest
import torch
from torch import nn

from uncol.networks.ema import make_teacher, update_teacher


@pytest.fixture
def pair():
    """A student with all weights 1 and a teacher with all weights 0."""
    student = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    teacher = make_teacher(student)
    for network, value in ((student, 1.0), (teacher, 0.0)):
        for parameter in network.parameters():
            parameter.data.fill_(value)
    return teacher, student


def first_weight(network):
    return float(next(network.parameters()).detach().flatten()[0])


@pytest.mark.parametrize(("step", "expected"), [(1, 0.5), (3, 0.25), (99, 0.01), (5000, 0.01)])
def test_the_teacher_moves_by_one_minus_mu(pair, step, expected):
    teacher, student = pair
    update_teacher(teacher, student, step=step, momentum=0.99)
    assert first_weight(teacher) == pytest.approx(expected)
    assert first_weight(student) == 1.0


def test_many_steps_are_the_weighted_sum_of_all_students(pair):
    teacher, student = pair
    expected = 0.0
    for step in range(1, 30):
        student[0].weight.data.fill_(float(step))
        update_teacher(teacher, student, step=step + 500, momentum=0.9)
        expected = 0.9 * expected + 0.1 * step
    assert first_weight(teacher) == pytest.approx(expected, rel=1e-5)


def test_batch_statistics_are_copied_unless_told_otherwise(pair):
    teacher, student = pair
    student.train()(torch.randn(4, 1, 3, 3) * 5 + 3)
    update_teacher(teacher, student, step=1, momentum=0.99, buffers=False)
    assert not torch.equal(teacher[1].running_mean, student[1].running_mean)
    update_teacher(teacher, student, step=1, momentum=0.99)
    assert torch.equal(teacher[1].running_mean, student[1].running_mean)
    assert teacher[1].num_batches_tracked == student[1].num_batches_tracked == 1


def test_a_new_teacher_is_a_frozen_copy_in_evaluation_mode():
    student = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    teacher = make_teacher(student)
    assert not teacher.training
    assert student.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    student[0].weight.data.zero_()
    assert teacher[0].weight.abs().sum() > 0


def test_networks_of_different_depth_do_not_mix():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        update_teacher(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), step=1, momentum=0.9)
