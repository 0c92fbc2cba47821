"""What a training run changes: the student, its average, the projections, the randomness."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from uncol.generalist.pool import Generalist
from uncol.method.distill import Adapters
from uncol.method.recipe import Recipe
from uncol.networks.ema import make_specialist
from uncol.networks.student import Student
from uncol.training.presets import Preset


@dataclass
class Run:
    """Everything that a run changes.

    Attributes:
        student: the student.
        specialist: its moving average.
        adapters: projections from the generalist, or None without one.
        generator: the only source of randomness besides dropout, and the generalist's clicks.
    """

    student: Student
    specialist: nn.Module
    adapters: Adapters | None
    generator: torch.Generator

    @property
    def networks(self) -> tuple[nn.Module | None, ...]:
        """The networks that change, in a fixed order."""
        return (self.student, self.specialist, self.adapters)

    def begin_with(self, student: Student) -> None:
        """Let student and specialist begin with the weights of another of the same sizes."""
        for network in (self.student, self.specialist):
            network.load_state_dict(student.state_dict())

    def deployed(self, recipe: Recipe) -> Student:
        """Return the network to deploy: the specialist or, as released, the student as it ended.

        Both have the same layers; the average varies less from step to step.
        """
        chosen = self.specialist if recipe.deploy_average else self.student
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
    student = Student(preset.spec, classes, dropout=preset.dropout).to(device)
    if preset.spec.dims == 2:
        # a quarter less time per step
        convert_conv2d_weight_memory_format(student, torch.channels_last)
    adapters = None
    if generalist is not None:
        model = generalist.model
        adapters = Adapters(
            hidden_channels=model.hidden_channels,
            token_channels=model.token_channels,
            foreground=classes - 1,
            student_dim=preset.spec.prior_dim,
            student_width=preset.spec.channels[-1],
        ).to(device)
    generator = torch.Generator().manual_seed(seed)
    return Run(student, make_specialist(student), adapters, generator)


def random_state(run: Run, generalist: Generalist | None, device: torch.device) -> dict[str, Any]:
    """Return all randomness of a run between two steps."""
    clicks = None if generalist is None else generalist.generator.bit_generator.state
    return {
        "crops": run.generator.get_state(),
        "dropout": torch.get_rng_state(),
        "dropout_gpu": torch.cuda.get_rng_state_all() if device.type == "cuda" else [],
        "clicks": json.dumps(clicks),
    }


def set_random_state(
    state: Mapping[str, Any], run: Run, generalist: Generalist | None, device: torch.device
) -> None:
    """Restore the randomness that `random_state` returned."""
    run.generator.set_state(state["crops"])
    torch.set_rng_state(state["dropout"])
    if device.type == "cuda":
        torch.cuda.set_rng_state_all(state["dropout_gpu"])
    if generalist is not None:
        generalist.generator.bit_generator.state = json.loads(state["clicks"])
