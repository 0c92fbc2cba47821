"""The interface that receives the progress of a round."""

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
        trust: share of unlabeled voxels on which a pseudo-label counted, by who vouched for it;
            empty in stage 1.
    """

    stage: int
    number: int
    losses: dict[str, float]
    trust: dict[str, float]


class Reporter:
    """Receives the progress of a round and ignores it; override what is wanted."""

    def phase(self, text: str) -> None:
        """Called when a phase begins."""

    def planned(self, plan: Plan) -> None:
        """Called once the budget is known."""

    def step(self, step: Step) -> None:
        """Called after each training step."""
