"""The training loop: two stages, one student, two teachers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from uncol.data.crops import CropMap
from uncol.data.prepared import TrainingCase
from uncol.errors import TrainingError
from uncol.generalist.pool import Generalist
from uncol.inference.predict import predict
from uncol.method import schedules
from uncol.method.fusion import PseudoLabel, fuse, generalist_probs
from uncol.method.mixing import copy_paste_mask
from uncol.method.parts import EVERYTHING, Parts
from uncol.method.recipe import Mode
from uncol.method.stages import (
    Crops,
    Knowledge,
    Losses,
    finetune,
    pretrain,
    with_pseudo_label,
)
from uncol.networks.arithmetic import fast_arithmetic
from uncol.networks.ema import update_teacher
from uncol.training.batches import CropSource, Drawn
from uncol.training.composition import compose, mixes, smallest_batch
from uncol.training.plan import Plan
from uncol.training.presets import Preset
from uncol.training.run import Run
from uncol.uncertainty.maps import entropy

logger = logging.getLogger(__name__)

MOMENTUM = 0.99
CLIP = 5.0
WEIGHT_DECAY = {"sgd": 1e-4, "adamw": 1e-2}
RELEASED_2D_RATE = 0.01


@dataclass(frozen=True)
class Step:
    """What one step did, for whoever shows progress.

    Attributes:
        stage: 1 or 2.
        number: steps done in the run, from 1.
        losses: terms by name.
        trust: share of unlabeled voxels on which a pseudo-label counted, by teacher.
    """

    stage: int
    number: int
    losses: dict[str, float]
    trust: dict[str, float]


class Trainer:
    """UnCoL on prepared cases: `for step in trainer.run(): ...`.

    Between two steps everything that decides the rest of the run is in `state_dict`: on a CPU with
    the same number of threads an interrupted run ends in the very weights of one that was not.

    Attributes:
        parts: what of the method takes part; benchmarks leave parts out in classes of their own.
    """

    parts: ClassVar[Parts] = EVERYTHING

    def __init__(
        self,
        run: Run,
        preset: Preset,
        plan: Plan,
        *,
        labeled: Sequence[TrainingCase],
        unlabeled: Sequence[TrainingCase],
        generalist: Generalist | None,
        mode: Mode,
        device: torch.device,
    ) -> None:
        """Make a trainer.

        Args:
            run: networks and randomness.
            preset: crop size, batch and optimizer.
            plan: the budget.
            labeled: annotated cases, at least one.
            unlabeled: other cases; with none, stage 2 learns from annotated crops alone.
            generalist: the frozen teacher, all labeled and unlabeled cases looked at, or None.
            mode: which released behaviours to reproduce.
            device: where the student trains.
        """
        self.state = run
        self.preset = preset
        self.plan = plan
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.generalist = generalist
        self.mode = mode
        self.device = device
        self._done = 0  # steps of both stages
        self._stage = 0  # not begun
        self._prompted: dict[str, Any] | None = None  # what the generalist was last prompted by

    def run(self) -> Iterator[Step]:
        """Train to the end of the plan, from where the run is; yields after every step."""
        first = self.plan.pretrain_steps
        while self._done < self.plan.steps:
            stage = 1 if self._done < first else 2
            if self._stage != stage:
                self._begin(stage)
            try:
                losses, trust = (
                    self._pretrain(self._done) if stage == 1 else self._finetune(self._done - first)
                )
            except torch.OutOfMemoryError as error:
                self._shrink(error)
                continue
            self._done += 1
            yield Step(stage, self._done, losses.parts, trust)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on; tensors are not copied."""
        networks = (self.state.student, self.state.teacher, self.state.adapters)
        return {
            "done": self._done,
            "stage": self._stage,
            "networks": [network and network.state_dict() for network in networks],
            "optimizer": self._optimizer.state_dict(),
            "orders": [list(source.order) for source in self._sources],
            "random": self._random_state(),
            "prompted": self._prompted,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another trainer of the same run was.

        Raises:
            RuntimeError, KeyError, ValueError: it was another run.
        """
        self._begin(state["stage"])
        if (
            state["prompted"] is not None
        ):  # the generalist's answers are many, what it was asked few
            self.state.teacher.load_state_dict(state["prompted"]["teacher"])
            self._set_random_state(state["prompted"]["random"])
            self._prompt_generalist()
        networks = (self.state.student, self.state.teacher, self.state.adapters)
        for network, kept in zip(networks, state["networks"], strict=True):
            if network is not None:
                network.load_state_dict(kept)
        self._optimizer.load_state_dict(state["optimizer"])
        for source, order in zip(self._sources, state["orders"], strict=True):
            source.order = list(order)
        self._set_random_state(state["random"])
        self._done = state["done"]

    def _begin(self, stage: int) -> None:
        self._stage = stage
        self._optimizer = self._make_optimizer(stage)
        self._sources = [self._source(self.labeled)]
        self.state.student.train()
        if stage == 2:
            self._sources.append(self._source(self.unlabeled or self.labeled))
            self.state.teacher.train(self.mode.teacher_trains)

    def _shrink(self, error: torch.OutOfMemoryError) -> None:
        """Go on with half the crops a step: a GPU is shared with requests and other programs.

        Raises:
            TrainingError: there is nothing left to halve.
        """
        smallest = smallest_batch(mixed=self._mixes)
        if self.preset.batch <= smallest:
            raise TrainingError(
                f"The GPU's memory does not suffice for {smallest} crops a step of "
                f"{self.preset.crop} voxels: {error}. Choose a smaller preset, or train with "
                "device cpu."
            ) from error
        self.preset = replace(self.preset, batch=max(smallest, self.preset.batch // 2))
        logger.warning("GPU memory is short: going on with %s crops a step", self.preset.batch)
        self._optimizer.zero_grad()
        torch.cuda.empty_cache()

    def _pretrain(self, step: int) -> tuple[Losses, dict[str, float]]:
        state, total = self.state, self.plan.pretrain_steps
        self._set_rate(step, total)
        drawn = self._sources[0].draw(self.preset.batch, semantic=self.parts.semantic)
        with fast_arithmetic(self.device):
            losses = pretrain(
                state.student,
                state.adapters,
                _to(drawn.crops, self.device),
                self._mask(self.preset.batch),
                weight=schedules.distillation_weight(step, total),
                visual_too=self.parts.visual,
                softmax_twice=self.mode.softmax_twice,
            )
        self._update(losses)
        self._follow(step + 1)
        return losses, {}  # no pseudo-labels yet

    def _finetune(self, step: int) -> tuple[Losses, dict[str, float]]:
        state, total = self.state, self.plan.finetune_steps
        made_of = compose(
            self.preset.batch, step / total, mixed=self._mixes, unlabeled=bool(self.unlabeled)
        )
        if step % self.plan.prompt_every == 0:
            self._prompt_generalist()
        self._set_rate(step, total)
        annotated, others = self._sources
        labeled = annotated.draw(made_of.annotated, semantic=False)
        unlabeled = others.draw(made_of.others, semantic=False, upright=self._upright)
        crops, trust = self._targets(unlabeled, step)
        with fast_arithmetic(self.device):
            losses = finetune(
                state.student,
                state.adapters,
                _to(labeled.crops, self.device),
                crops,
                self._mask(made_of.annotated),
                pseudo_weight=made_of.weight,
                visual_too=self.parts.visual,
            )
        self._update(losses)
        if not self.mode.freeze_teacher_in_stage2:
            self._follow(self.plan.pretrain_steps + step + 1)
        return losses, trust

    def _source(self, cases: Sequence[TrainingCase]) -> CropSource:
        crop, patch = self.preset.crop, self.preset.spec.patch
        tokens = (crop[0] // patch[0], crop[1] // patch[1], crop[2] // patch[2])
        return CropSource(
            cases, crop, tokens, generalist=self.generalist, generator=self.state.generator
        )

    @property
    def _upright(self) -> bool:  # only where something is guessed
        wanted = self.parts.upright and not self.mode.teacher_sees_crops
        return wanted and bool(self.unlabeled)

    @property
    def _mixes(self) -> bool:
        finetuned = max(0, self._done - self.plan.pretrain_steps)
        progress = finetuned / self.plan.finetune_steps
        return mixes(self.preset, self.mode, self.parts, progress)

    def _mask(self, batch: int) -> Tensor | None:
        if not self._mixes:
            return None
        mask = copy_paste_mask(batch, self.preset.crop, generator=self.state.generator)
        return mask.to(self.device)

    def _make_optimizer(self, stage: int) -> torch.optim.Optimizer:
        networks: list[nn.Module] = [self.state.student]
        if self.state.adapters is not None:
            networks.append(self.state.adapters)
        parameters = [p for network in networks for p in network.parameters()]
        name, self._rate = self.preset.optimizer, self.preset.rate
        if stage == 2 and self.mode.rate_overwritten and self.preset.spec.dims == 2:
            name, self._rate = "adamw", RELEASED_2D_RATE  # trap 12
        decay = WEIGHT_DECAY[name]
        if name == "sgd":
            return torch.optim.SGD(parameters, self._rate, momentum=0.9, weight_decay=decay)
        return torch.optim.AdamW(parameters, self._rate, weight_decay=decay)

    def _set_rate(self, step: int, total: int) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = schedules.polynomial_rate(self._rate, step, total)

    def _update(self, losses: Losses) -> None:
        self._optimizer.zero_grad()
        torch.autograd.backward(losses.total)
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, CLIP)
        self._optimizer.step()

    def _follow(self, step: int) -> None:
        update_teacher(
            self.state.teacher,
            self.state.student,
            step=step,
            momentum=MOMENTUM,
            buffers=not self.mode.teacher_trains,
        )

    def _targets(self, drawn: Drawn, step: int) -> tuple[Crops, dict[str, float]]:
        """Give unlabeled crops their pseudo-label; annotated ones keep their annotation."""
        crops = _to(drawn.crops, self.device)
        if not self.unlabeled:
            return crops, {}
        pseudo = self._pseudo_label(drawn, step)
        return with_pseudo_label(crops, pseudo), trust_shares(pseudo)

    @torch.no_grad()
    def _pseudo_label(self, drawn: Drawn, step: int) -> PseudoLabel:
        with fast_arithmetic(self.device):
            output = self.state.teacher(drawn.clean.to(self.device))
        specialist, seen = drawn.in_crops(output.mean_logits.float().softmax(dim=1))
        classes = specialist.shape[1]
        found = [
            self._generalist_says(name, place, classes)
            for name, place in zip(drawn.names, drawn.places, strict=True)
        ]
        foreground = torch.stack([probs for probs, _ in found]).to(self.device)
        available = torch.stack([exists for _, exists in found]).to(self.device)
        general = generalist_probs(foreground, squash_twice=self.mode.squash_twice)
        threshold = self.parts.threshold
        if threshold is None:
            threshold = schedules.trust_threshold(step, self.plan.finetune_steps)
        return fuse(
            specialist,
            general,
            available & self.parts.generalist,
            threshold=threshold,
            seen=seen & self.parts.specialist,
        )

    def _generalist_says(self, name: str, place: CropMap, classes: int) -> tuple[Tensor, Tensor]:
        if self.generalist is None:
            nothing = torch.zeros(place.shape, dtype=torch.bool)
            return torch.zeros(classes - 1, *place.shape), nothing
        return self.generalist.probs(name, place, classes)

    def _prompt_generalist(self) -> None:
        """Prompt the generalist, if heeded, with the specialist's masks of unlabeled scans."""
        if self.generalist is None or not self.parts.generalist:
            return
        if not self.generalist.has_a_say(self.state.student.classes):
            return
        teacher = self.state.teacher
        weights = {name: value.clone() for name, value in teacher.state_dict().items()}
        self._prompted = {"teacher": weights, "random": self._random_state()}
        training = teacher.training
        teacher.eval()
        for case in self.unlabeled:
            image = case.tensor()
            answer = predict(teacher, image, self.preset.crop, device=self.device)
            mask, classes = answer.probs.argmax(dim=0), answer.probs.shape[0]
            self.generalist.prompt(case, mask, classes, entropy(answer.probs, dim=0))
        teacher.train(training)

    def _random_state(self) -> dict[str, Any]:
        clicks = None if self.generalist is None else self.generalist.generator.bit_generator.state
        return {
            "crops": self.state.generator.get_state(),
            "dropout": torch.get_rng_state(),
            "dropout_gpu": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            "clicks": json.dumps(clicks),
        }

    def _set_random_state(self, state: Mapping[str, Any]) -> None:
        self.state.generator.set_state(state["crops"])
        torch.set_rng_state(state["dropout"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["dropout_gpu"])
        if self.generalist is not None:
            self.generalist.generator.bit_generator.state = json.loads(state["clicks"])


def trust_shares(pseudo: PseudoLabel) -> dict[str, float]:
    """Return the share of voxels on which each teacher passed the gate.

    What a teacher did not see, such as corners of a turned crop, it does not pass.
    """
    return {
        "trust_generalist": float(pseudo.generalist.float().mean()),
        "trust_specialist": float(pseudo.specialist.float().mean()),
        "trust_any": float(pseudo.trusted.float().mean()),
    }


def _to(crops: Crops, device: torch.device) -> Crops:
    known = crops.knowledge
    if known is not None:
        semantic = None if known.semantic is None else known.semantic.to(device)
        hidden = tuple(level.to(device) for level in known.hidden)
        known = Knowledge(hidden, semantic, known.valid.to(device))
    return Crops(crops.image.to(device), crops.label.to(device), crops.counts.to(device), known)
