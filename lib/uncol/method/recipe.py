"""`intended` or `release`: where the released code differs from what the paper means.

Each switch names the trap of uncol-method.md section 2.6 that it reproduces. Traps 7, 8, 10, 13
and 14 have no switch: 7, 10 and 14 are crashes or accidents of one script, 8 would select on test
cases, and 13 only costs time. Their tests show the intended behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """What a training run does.

    Attributes:
        freeze_teacher_in_stage2: the specialized teacher stays at its stage-1 state (trap 1).
        squash_twice: the generalist's probabilities are soft-maxed again (trap 2).
        softmax_twice: so is the stage-1 Dice head (trap 3).
        shifted_clicks: 'uncertain' clicks read the entropy map at shifted places (trap 4).
        carry_memory: the low-resolution mask is carried from class to class (trap 5).
        raw_hidden: the states for visual distillation see an un-normalized scan (trap 6).
        empty_scores_zero: all metrics are 0 where a mask is empty (trap 9).
        teacher_trains: in stage 2 the specialized teacher runs in training mode, and its buffers
            are never updated (trap 11).
        teacher_sees_crops: the specialized teacher sees the student's crops, turned and scaled;
            no trap, theirs are hardly turned.
        mixes_always: crops are copy-pasted whatever the preset says; no trap with the
            paper's crops.
        rate_overwritten: 2D stage 2 runs AdamW at the rate meant for SGD (trap 12).
    """

    freeze_teacher_in_stage2: bool = False
    squash_twice: bool = False
    softmax_twice: bool = False
    shifted_clicks: bool = False
    carry_memory: bool = False
    raw_hidden: bool = False
    empty_scores_zero: bool = False
    teacher_trains: bool = False
    teacher_sees_crops: bool = False
    mixes_always: bool = False
    rate_overwritten: bool = False


MODES = {
    "intended": Mode(),
    "release": Mode(
        freeze_teacher_in_stage2=True,
        squash_twice=True,
        softmax_twice=True,
        shifted_clicks=True,
        carry_memory=True,
        raw_hidden=True,
        empty_scores_zero=True,
        teacher_trains=True,
        teacher_sees_crops=True,
        mixes_always=True,
        rate_overwritten=True,
    ),
}
