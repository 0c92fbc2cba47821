"""The specialist: an exponential moving average of the student's weights.

Batch norm's running statistics are not averaged: those of the student fit its last weights, and an
average of them lags behind. `Trainer` fits them to the averaged weights instead.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


def make_specialist(student: nn.Module) -> nn.Module:
    """Return a frozen copy of the student, in evaluation mode."""
    specialist = copy.deepcopy(student).eval()
    return specialist.requires_grad_(False)


@torch.no_grad()
def update_specialist(
    specialist: nn.Module, student: nn.Module, *, step: int, momentum: float
) -> None:
    """Move the specialist towards the student (docs/method.md section 1.1).

    theta_T <- mu theta_T + (1 - mu) theta, with mu = min(1 - 1 / (t + 1), momentum).

    Args:
        specialist: changed in place.
        student: the student after its step.
        step: steps done in this run, from 1.
        momentum: upper limit of mu.
    """
    mu = min(1 - 1 / (step + 1), momentum)
    for average, new in zip(specialist.parameters(), student.parameters(), strict=True):
        average.lerp_(new, 1 - mu)
