"""Who hears how a round goes."""

from __future__ import annotations

from dataclasses import dataclass

from uncol.versions.manifest import Plan


@dataclass(frozen=True)
class Step:
    """What one step did, for whoever shows progress.

    Attributes:
        stage: 1 or 2.
        number: steps done in the run, from 1.
        losses: terms by name.
        trust: share of unlabeled voxels on which a pseudo-label counted, by who vouched for it.
    """

    stage: int
    number: int
    losses: dict[str, float]
    trust: dict[str, float]


class Reporter:
    """Hears how a round goes; the default hears nothing. Subclass what is wanted."""

    def phase(self, text: str) -> None:
        """Hear that a phase begins."""

    def planned(self, plan: Plan) -> None:
        """Hear the budget."""

    def step(self, step: Step) -> None:
        """Hear of a training step."""
