"""What a training run changes: the student, its average, the projections, the randomness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from uncol.generalist.pool import Generalist
from uncol.method.distill import Adapters
from uncol.networks.ema import make_teacher
from uncol.networks.student import Student
from uncol.training.presets import Preset


@dataclass
class Run:
    """Everything that a run changes.

    Attributes:
        student: the student.
        teacher: the specialized teacher.
        adapters: projections from the generalist, or None without one.
        generator: the only source of randomness besides dropout.
    """

    student: Student
    teacher: nn.Module
    adapters: Adapters | None
    generator: torch.Generator

    def deployed(self, mode: str) -> Student:
        """Return the network to deploy: the averaged student, or the last one as released.

        Both are the same network; the average varies less from step to step than its last state.
        """
        chosen = self.student if mode == "release" else self.teacher
        if not isinstance(chosen, Student):
            raise TypeError(type(chosen))
        return chosen.eval()


def new_run(
    preset: Preset,
    classes: int,
    *,
    generalist: Generalist | None,
    seed: int,
    device: torch.device,
) -> Run:
    """Make fresh networks from a seed."""
    torch.manual_seed(seed)
    student = Student(preset.spec, classes).to(device)
    adapters = None
    if generalist is not None:
        teacher = generalist.teacher
        adapters = Adapters(
            hidden_channels=teacher.hidden_channels,
            token_channels=teacher.token_channels,
            foreground=classes - 1,
            student_dim=preset.spec.prior_dim,
            student_width=preset.spec.channels[-1],
        ).to(device)
    generator = torch.Generator().manual_seed(seed)
    return Run(student, make_teacher(student), adapters, generator)
