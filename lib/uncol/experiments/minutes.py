"""How many steps a training may have to take some minutes on this machine.

A part of a training does not depend on its steps: scans are read, the generalist looks at them and
is prompted. Three short trainings, which are thrown away, tell these parts and the time of a step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from uncol.errors import RequestError
from uncol.experiments.comparison import Comparison, Training, begin_training
from uncol.training.fit import train
from uncol.training.plan import with_steps
from uncol.training.reporter import Reporter
from uncol.versions.manifest import Plan

SHORT, LONG = 8, 32  # steps of the short trainings


@dataclass(frozen=True)
class Fitting:
    """A plan, and what was done for it already.

    Attributes:
        plan: how many steps.
        looked_seconds: the time that a training with this plan saves, because the generalist looked
            at the scans before.
    """

    plan: Plan
    looked_seconds: float


def fitting_plan(comparison: Comparison, training: Training) -> Fitting:
    """Return the plan with which a training takes its minutes, in the app's shares of stages.

    Args:
        comparison: what is compared, in a folder that no training has used.
        training: one with minutes.

    Raises:
        RequestError: the minutes do not suffice for two steps.
    """
    planned = comparison.plan(training.budget)
    short = _seconds(comparison, training, _of_length(planned, SHORT))
    again = _seconds(comparison, training, _of_length(planned, SHORT))
    long = _seconds(comparison, training, _of_length(planned, LONG))
    step = max(long - again, 1e-3) / (LONG - SHORT)
    looked = max(0.0, short - again)
    left = 60 * (training.minutes or 0) - short + SHORT * step
    steps = int(left / step)
    if steps < 2:
        raise RequestError(
            f"{training}: that is too short; {short:.0f} s pass before the first steps are done."
        )
    return Fitting(_of_length(planned, steps), looked)


def _of_length(planned: Plan, steps: int) -> Plan:
    first = min(max(1, round(steps * planned.pretrain_steps / planned.steps)), steps - 1)
    return with_steps(planned, first, steps - first)


def _seconds(comparison: Comparison, training: Training, plan: Plan) -> float:
    start = time.monotonic()
    begun, _ = begin_training(comparison, training, plan, Reporter())
    train(begun, Reporter()).checkpoint.remove()
    return time.monotonic() - start
