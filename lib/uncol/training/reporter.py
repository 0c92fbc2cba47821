"""What a round is made with, and who hears how it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uncol.training.plan import Plan

if TYPE_CHECKING:
    from uncol.training.loop import Step


class Reporter:
    """Hears how a round goes; the default hears nothing. Subclass what is wanted."""

    def phase(self, text: str) -> None:
        """Hear that a phase begins."""

    def planned(self, plan: Plan) -> None:
        """Hear the budget."""

    def step(self, step: Step) -> None:
        """Hear of a training step."""
