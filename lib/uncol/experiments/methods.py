"""What `uncol benchmark ssl` compares: UnCoL, its ablations, and the field's baselines.

All share the student, voxel size and crops, their augmentation, the optimizer, the steps and the
inference; all but the released code deploy the averaged student. A baseline is what it does
otherwise, nothing else. Half of the crops of a semi-supervised baseline's step are annotated; so
are UnCoL's while it mixes them. Where it does not (`training/composition.py`), it takes the full
batch of `supervised` and three quarters as many pseudo-labeled crops beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from uncol.data.masks import largest_component
from uncol.method import schedules
from uncol.method.fusion import PseudoLabel
from uncol.method.losses import dice_ce
from uncol.method.parts import Parts
from uncol.method.stages import Losses
from uncol.networks.arithmetic import fast_arithmetic
from uncol.training.batches import Drawn
from uncol.training.loop import Trainer
from uncol.uncertainty.maps import entropy

CONSISTENCY = 0.1  # weight of the consistency term at the end of its ramp (SSL4MIS)
SAMPLES = 8  # noisy passes of UA-MT's teacher
NOISE = 0.1  # standard deviation of their noise, clipped at twice that
Stepped = tuple[Losses, dict[str, float]]


class Supervised(Trainer):
    """Annotated crops alone, as they are."""

    def _pretrain(self, step: int) -> Stepped:
        self._set_rate(step, self.plan.pretrain_steps)
        return self._learn(step, self.preset.batch, 0.0)

    def _finetune(self, step: int) -> Stepped:
        self._set_rate(step, self.plan.finetune_steps)
        return self._learn(self.plan.pretrain_steps + step, self.preset.batch, 0.0)

    def _learn(self, number: int, count: int, weight: float) -> Stepped:
        """Learn from annotated crops and, with a weight, from unlabeled ones.

        Args:
            number: the step, of both stages.
            count: annotated crops.
            weight: of the consistency term; 0 leaves unlabeled crops alone.
        """
        labeled = self._sources[0].draw(count, semantic=False).crops
        images = [labeled.image]
        drawn = None
        if weight:
            drawn = self._sources[1].draw(count, semantic=False)
            images.append(drawn.crops.image)
        with fast_arithmetic(self.device):
            logits = self.state.student(torch.cat(images).to(self.device)).mean_logits
        supervised = dice_ce(
            logits[:count], labeled.label.to(self.device), labeled.counts.to(self.device)
        )
        consistency = supervised.new_zeros(())
        if drawn is not None:
            consistency = self._consistency(logits[count:], drawn)
        losses = Losses(
            supervised + weight * consistency,
            {"supervised": float(supervised.detach()), "consistency": float(consistency.detach())},
        )
        self._update(losses)
        self._follow(number + 1)
        return losses, {}

    def _consistency(self, logits: Tensor, drawn: Drawn) -> Tensor:
        raise NotImplementedError


class MeanTeacher(Supervised):
    """Mean teacher (Tarvainen and Valpola, NeurIPS 2017): agree with the averaged student."""

    def _finetune(self, step: int) -> Stepped:
        total = self.plan.finetune_steps
        self._set_rate(step, total)
        weight = CONSISTENCY * schedules.sigmoid_ramp(step / total)
        half = max(1, self.preset.batch // 2)
        return self._learn(self.plan.pretrain_steps + step, half, weight)

    def _consistency(self, logits: Tensor, drawn: Drawn) -> Tensor:
        target = self._teacher_says(drawn.clean.to(self.device))
        return ((logits.float().softmax(dim=1) - target) ** 2).mean()

    @torch.no_grad()
    def _teacher_says(self, image: Tensor) -> Tensor:
        with fast_arithmetic(self.device):
            logits: Tensor = self.state.teacher(image).mean_logits
        return logits.float().softmax(dim=1)


class UncertainMeanTeacher(MeanTeacher):
    """UA-MT (Yu et al., MICCAI 2019): agree only where the teacher's noisy passes are sure."""

    def _consistency(self, logits: Tensor, drawn: Drawn) -> Tensor:
        image = drawn.clean.to(self.device)
        passes = [self._teacher_says(image + self._noise(image)) for _ in range(SAMPLES)]
        unsure = entropy(torch.stack(passes).mean(dim=0))
        done = self._done - self.plan.pretrain_steps
        sure = unsure < schedules.trust_threshold(done, self.plan.finetune_steps)
        square = (logits.float().softmax(dim=1) - self._teacher_says(image)) ** 2
        return (square.mean(dim=1) * sure).sum() / sure.sum().clamp_min(1)

    def _noise(self, image: Tensor) -> Tensor:
        drawn = torch.randn(image.shape, generator=self.state.generator) * NOISE
        return drawn.clamp(-2 * NOISE, 2 * NOISE).to(image.device)


class CopyPaste(Trainer):
    """BCP (Bai et al., CVPR 2023): UnCoL's mixing with the averaged student's word for all."""

    parts = Parts(threshold=1.0, mix_until=1.0, upright=False)

    def _pseudo_label(self, drawn: Drawn, step: int) -> PseudoLabel:
        pseudo = super()._pseudo_label(drawn, step)
        found = pseudo.label.cpu().numpy()
        kept = np.zeros_like(found)
        for item, mask in zip(kept, found, strict=True):
            for value in np.unique(mask[mask > 0]):
                item[largest_component(mask == value)] = value
        label = torch.from_numpy(kept).to(pseudo.label.device)
        return PseudoLabel(label, pseudo.trusted, pseudo.generalist, pseudo.specialist)


@dataclass(frozen=True)
class Method:
    """What is compared.

    Attributes:
        make_trainer: what trains.
        mode: `intended` or `release`.
        teacher: whether there is a generalized teacher.
        unlabeled: whether it learns from scans without annotation.
        everything: whether it is told the annotation of all of them, whatever the budget.
    """

    make_trainer: type[Trainer] = Trainer
    mode: str = "intended"
    teacher: bool = True
    unlabeled: bool = True
    everything: bool = False


def _with(name: str, parts: Parts) -> Method:
    return Method(type(name, (Trainer,), {"parts": parts}))


METHODS: dict[str, Method] = {
    "supervised": Method(Supervised, teacher=False, unlabeled=False),
    "mean_teacher": Method(MeanTeacher, teacher=False),
    "ua_mt": Method(UncertainMeanTeacher, teacher=False),
    "bcp": Method(CopyPaste, teacher=False),
    "uncol": Method(),
    "uncol_release": Method(mode="release"),
    "uncol_no_teacher": Method(teacher=False),
    "supervised_all": Method(Supervised, teacher=False, unlabeled=False, everything=True),
    "uncol_no_visual": _with("WithoutVisual", Parts(visual=False)),
    "uncol_no_semantic": _with("WithoutSemantic", Parts(semantic=False)),
    "uncol_no_generalist": _with("WithoutGeneralist", Parts(generalist=False)),
    "uncol_no_specialist": _with("WithoutSpecialist", Parts(specialist=False)),
    "uncol_fixed_gate": _with("FixedGate", Parts(threshold=0.75)),
    "uncol_no_gate": _with("WithoutGate", Parts(threshold=1.0)),
    "uncol_no_mixing": _with("WithoutMixing", Parts(mix_until=0.0)),
    "uncol_mixing": _with("MixedToTheEnd", Parts(mix_until=1.0)),
    "uncol_turned_views": _with("TurnedViews", Parts(upright=False)),
}
COMPARED = list(METHODS)[:8]
ABLATIONS = list(METHODS)[8:]
