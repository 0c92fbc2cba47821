"""What a training run does: the method as intended, as released, and with a part left out.

`INTENDED` is the product. `RELEASED` reproduces where the released code differs from the paper;
docs/method.md section 2.6 numbers these differences and says why some have no switch here. An
ablation is `dataclasses.replace(INTENDED, ...)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Recipe:
    """What a training run does.

    Attributes:
        semantic: stage 1 distils the generalist's prompted tokens (docs/method.md section 2.2);
            without it the decoder consumes the student's own prior there, too.
        visual: both stages distil the generalist's states.
        generalist: the generalist has a say in pseudo-labels (section 2.4).
        specialist: so does the specialist.
        upright: the specialist sees scans upright, however the student's crops are turned.
        threshold: a fixed gate; None for the ramp tau(t), 1 for no gate at all.
        mix_until: share of stage 2 up to which crops are copy-pasted into each other (section
            2.1), 0 for never; None to let preset and crops decide, see `with_mixing`.
        mix_from: share of a scan that a crop must hold for copy-paste to help: with smaller crops,
            what is pasted lies where no scan has it. The paper's atria have 0.45.
        weigh_generalist: the generalist is heeded only on labels that it finds better than a box.
        probe: a probe on the generalist's features says where labels are that it finds in
            annotated scans it was not fit to, see `generalist/probe.py`.
        one_piece: predictions drop stray pieces of structures, see `inference/one_piece.py`.
        one_cycle: one optimizer for both stages, its rate falling over the whole run; else each
            stage begins anew at the full rate.
        window: share of all steps that the specialist remembers, see
            `schedules.average_momentum`.
        deploy_average: the specialist is deployed, else the student as it was after the last step.
        specialist_frozen_in_stage2: difference 1.
        softmax_over_probabilities: difference 2, of the generalist's pseudo-label.
        softmax_twice_in_dice: difference 3, of stage 1's Dice head.
        shifted_clicks: difference 4.
        mask_memory_carried_over: difference 5, from class to class.
        raw_states: difference 6, visual distillation sees an un-normalized scan.
        empty_scores_zero: difference 9, all metrics are 0 where a mask is empty.
        specialist_in_training_mode: difference 11, in stage 2, its buffers never updated.
        rate_overwritten: difference 12, 2D stage 2 runs AdamW at the rate meant for SGD.
    """

    semantic: bool = True
    visual: bool = True
    generalist: bool = True
    specialist: bool = True
    upright: bool = True
    threshold: float | None = None
    mix_until: float | None = None
    mix_from: float = 0.4
    weigh_generalist: bool = True
    probe: bool = field(default=False, repr=False)  # benchmark lines without one still match
    one_piece: bool = True
    one_cycle: bool = True
    window: float = 0.035
    deploy_average: bool = True
    specialist_frozen_in_stage2: bool = False
    softmax_over_probabilities: bool = False
    softmax_twice_in_dice: bool = False
    shifted_clicks: bool = False
    mask_memory_carried_over: bool = False
    raw_states: bool = False
    empty_scores_zero: bool = False
    specialist_in_training_mode: bool = False
    rate_overwritten: bool = False

    def with_mixing(self, usual: float, *, crop_share: float = 1.0) -> Recipe:
        """Return the recipe with a decision on how long crops are mixed.

        Args:
            usual: share of stage 2 in which the preset mixes, unless the recipe itself decides.
            crop_share: share of a scan that a crop holds.
        """
        if self.mix_until is not None:
            return self
        return replace(self, mix_until=usual if crop_share >= self.mix_from else 0.0)

    def mixes(self, progress: float) -> bool:
        """Return whether a step copy-pastes its crops; only after `with_mixing`.

        Args:
            progress: of stage 2, from 0 to below 1; 0 in stage 1.

        Raises:
            ValueError: it is not decided yet how long crops are mixed.
        """
        if self.mix_until is None:
            raise ValueError("decide how long crops are mixed: Recipe.with_mixing")
        return progress < self.mix_until


INTENDED = Recipe()
RELEASED = Recipe(
    upright=False,  # its crops are hardly turned
    mix_until=1.0,
    weigh_generalist=False,
    one_piece=False,
    one_cycle=False,
    window=1.0,
    deploy_average=False,
    specialist_frozen_in_stage2=True,
    softmax_over_probabilities=True,
    softmax_twice_in_dice=True,
    shifted_clicks=True,
    mask_memory_carried_over=True,
    raw_states=True,
    empty_scores_zero=True,
    specialist_in_training_mode=True,
    rate_overwritten=True,
)
RECIPES = {"intended": INTENDED, "release": RELEASED}
