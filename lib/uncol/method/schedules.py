"""Ramps and rates as functions of the step (docs/method.md sections 2.2, 2.4 and 3)."""

from __future__ import annotations

import math

TAU_START = 0.75
TAU_END = 1.0
RAMP = 5.0
MOMENTUM = 0.99
DISTILL_WEIGHT = 0.1
DISTILL_FULL_AT = 0.5  # the released 7500 of 15000 steps


def sigmoid_ramp(progress: float) -> float:
    """Return exp(-5 (1 - p)^2) with p clipped to [0, 1]."""
    clipped = min(max(progress, 0.0), 1.0)
    return math.exp(-RAMP * (1 - clipped) ** 2)


def trust_threshold(step: int, total: int) -> float:
    """Return tau(t) = 0.75 + 0.25 exp(-5 (1 - t/T)^2), the highest uncertainty that passes."""
    return TAU_START + (TAU_END - TAU_START) * sigmoid_ramp(step / max(total, 1))


def distillation_weight(step: int, total: int) -> float:
    """Return lambda(t) of stage 1, full after half of the steps, as released (7500 of 15000)."""
    return DISTILL_WEIGHT * sigmoid_ramp(step / max(DISTILL_FULL_AT * total, 1))


def polynomial_rate(first: float, step: int, total: int) -> float:
    """Return lr(t) = first (1 - t/T)^0.9."""
    return first * math.pow(1 - min(step, total) / max(total, 1), 0.9)


def average_momentum(window: float, total: int) -> float:
    """Return the largest mu of equation (1): the average remembers a share of all steps.

    A network that learns fast leaves behind an average that remembers much; a short run's must
    forget sooner (Busbridge et al. 2023, arXiv:2307.13813, scale momentum with batch and steps).

    Args:
        window: share of the run's steps.
        total: steps of both stages.

    Returns:
        `1 - 1 / (window total)`, at most 0.99, as released, and at least 0.
    """
    return min(MOMENTUM, 1 - 1 / max(window * total, 1.0))
