"""Which parts of the method take part. The product uses all; ablations leave one out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parts:
    """The method's parts, by the names of uncol-method.md section 5's ablations.

    Attributes:
        mix_until: share of stage 2 up to which crops are copy-pasted into each other (section
            2.1), 0 for never; None for what the preset says.
        semantic: stage 1's semantic distillation (section 2.2); without it the decoder consumes
            the student's own prior there, too.
        visual: visual distillation in both stages.
        generalist: the generalized teacher speaks in pseudo-labels (section 2.4).
        specialist: the specialized teacher does.
        upright: the specialized teacher sees scans upright, whatever the student sees.
        threshold: a fixed gate; None for the ramp tau(t), 1 for no gate: all that a teacher saw.
    """

    mix_until: float | None = None
    semantic: bool = True
    visual: bool = True
    generalist: bool = True
    specialist: bool = True
    upright: bool = True
    threshold: float | None = None


EVERYTHING = Parts()
