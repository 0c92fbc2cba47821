"""The training loop: two stages, one student, its specialist, and what a method learns from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from uncol.data.masks import PooledDice
from uncol.data.prepared import TrainingCase
from uncol.errors import TrainingError, why
from uncol.generalist.pool import Generalist
from uncol.generalist.probe import Probe
from uncol.inference.predict import predict
from uncol.method import schedules
from uncol.method.recipe import Recipe
from uncol.method.stages import Losses
from uncol.networks.arithmetic import fast_arithmetic
from uncol.networks.ema import update_specialist
from uncol.training.batches import CropSource
from uncol.training.composition import smallest_batch
from uncol.training.presets import Preset
from uncol.training.reporter import Step
from uncol.training.run import Run, random_state, set_random_state
from uncol.training.step import Batch, Method, StepResult
from uncol.uncertainty.maps import entropy
from uncol.versions.manifest import Plan

logger = logging.getLogger(__name__)

CLIP = 5.0
STATISTICS_FROM = 8  # batches of crops, each time that batch norm's statistics are fit
WEIGHT_DECAY = {"sgd": 1e-4, "adamw": 1e-2}
RELEASED_2D_RATE = 0.01


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from.

    Attributes:
        labeled: annotated cases, at least one.
        unlabeled: other cases; with none, stage 2 learns from annotated crops alone.
        generalist: one that has looked at all of them, or None.
    """

    labeled: Sequence[TrainingCase]
    unlabeled: Sequence[TrainingCase]
    generalist: Generalist | None


class Trainer:
    """A method on prepared cases: `for step in trainer.run(): ...`.

    Between two steps, `state_dict` holds everything that decides the rest of the run: on a CPU with
    the same number of threads, an interrupted run ends with the same weights as an uninterrupted
    one.
    """

    def __init__(
        self,
        run: Run,
        preset: Preset,
        plan: Plan,
        method: Method,
        recipe: Recipe,
        data: TrainingData,
        *,
        device: torch.device,
    ) -> None:
        """Make a trainer.

        Args:
            run: networks and randomness.
            preset: crop size, batch and optimizer.
            plan: the budget.
            method: what a step learns from.
            recipe: what the run does, after `Recipe.with_mixing`.
            data: what it learns from.
            device: where the student trains.
        """
        self.state = run
        self.preset = preset
        self.plan = plan
        self.method = method
        self.recipe = recipe
        self.data = data
        self.device = device
        self._done = 0  # steps of both stages
        self._stage = 0  # not begun
        self._optimizer = self._make_optimizer(1)
        self._refit_every = max(1, round(recipe.window * plan.steps))
        self._momentum = schedules.average_momentum(recipe.window, plan.steps)
        self._prompted: dict[str, Any] | None = None  # what the generalist was last prompted by

    def run(self) -> Iterator[Step]:
        """Train from where the run is to the end of the plan; yields after every step.

        Raises:
            TrainingError: the GPU's memory does not suffice for the fewest crops.
        """
        while self._done < self.plan.steps:
            stage = 1 if self._done < self.plan.pretrain_steps else 2
            if self._stage != stage:
                self._begin(stage)
            try:
                result = self._step(stage)
            except torch.OutOfMemoryError as error:
                self._shrink(error)
                continue
            self._done += 1
            if self._done == self.plan.steps:
                self.fit_statistics()
            yield Step(stage, self._done, result.losses.parts, result.trust)

    def fit_statistics(self) -> None:
        """Fit batch norm's statistics to the specialist's weights, on crops as the student sees.

        Only the 2D student has any. Crops are drawn apart from those that the run learns from.
        """
        if self.recipe.specialist_in_training_mode:
            return  # difference 11
        generator = torch.Generator().manual_seed(self._done)
        sources = [self._source(self.data.labeled, generator)]
        if self.data.unlabeled and self._stage == 2:
            sources.append(self._source(self.data.unlabeled, generator))
        drawn = (
            sources[n % len(sources)].draw(self.preset.batch, semantic=False).crops.image
            for n in range(STATISTICS_FROM)
        )
        with fast_arithmetic(self.device):
            update_bn(drawn, self.state.specialist, self.device)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to resume; tensors are not copied."""
        return {
            "done": self._done,
            "stage": self._stage,
            "networks": [network and network.state_dict() for network in self.state.networks],
            "optimizer": self._optimizer.state_dict(),
            "orders": [list(source.order) for source in self._sources],
            "random": random_state(self.state, self.data.generalist, self.device),
            "prompted": self._prompted,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where another trainer of the same run was.

        Raises:
            RuntimeError, KeyError, ValueError: it was another run.
        """
        self._begin(state["stage"])
        prompted = state["prompted"]
        if prompted is not None:  # its masks are large, so they are made again from the prompts
            self.state.specialist.load_state_dict(prompted["specialist"])
            set_random_state(prompted["random"], self.state, self.data.generalist, self.device)
            self._prompt_generalist()
        for network, weights in zip(self.state.networks, state["networks"], strict=True):
            if network is not None:
                network.load_state_dict(weights)
        self._optimizer.load_state_dict(state["optimizer"])
        for source, order in zip(self._sources, state["orders"], strict=True):
            source.order = list(order)
        set_random_state(state["random"], self.state, self.data.generalist, self.device)
        self._done = state["done"]

    def _begin(self, stage: int) -> None:
        self._stage = stage
        if stage == 2 and not self.recipe.one_cycle:
            self._optimizer = self._make_optimizer(stage)
        self._sources = [self._source(self.data.labeled)]
        self.state.student.train()
        if stage == 2:
            self._sources.append(self._source(self.data.unlabeled or self.data.labeled))
            self.state.specialist.train(self.recipe.specialist_in_training_mode)

    def _step(self, stage: int) -> StepResult:
        batch = self._batch(stage)
        if stage == 2 and batch.unlabeled:
            self._ready_teachers(batch.step)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate_now(batch)
        result = (self.method.stage1 if stage == 1 else self.method.stage2)(batch)
        self._update(result.losses)
        if stage == 1 or not self.recipe.specialist_frozen_in_stage2:
            self._follow()
        return result

    def _ready_teachers(self, step: int) -> None:
        """Bring what makes pseudo-labels up to date; `step` counts from the start of stage 2."""
        if step % self._refit_every == 0:
            self.fit_statistics()
        if step % self.plan.prompt_every == 0:
            self._prompt_generalist()

    def _rate_now(self, batch: Batch) -> float:
        whole = self.recipe.one_cycle
        step, steps = (self._done, self.plan.steps) if whole else (batch.step, batch.steps)
        return schedules.polynomial_rate(self._rate, step, steps)

    def _batch(self, stage: int) -> Batch:
        first = self.plan.pretrain_steps
        return Batch(
            self.state,
            self.recipe,
            self.preset,
            self.data.generalist,
            annotated=self._sources[0],
            others=self._sources[-1],
            unlabeled=bool(self.data.unlabeled),
            step=self._done if stage == 1 else self._done - first,
            steps=first if stage == 1 else self.plan.finetune_steps,
            mixed=self._mixed,
            device=self.device,
        )

    @property
    def _mixed(self) -> bool:
        finetuned = max(0, self._done - self.plan.pretrain_steps)
        return self.recipe.mixes(finetuned / self.plan.finetune_steps)

    def _source(
        self, cases: Sequence[TrainingCase], statistics: torch.Generator | None = None
    ) -> CropSource:
        crop, patch = self.preset.crop, self.preset.spec.patch
        tokens = (crop[0] // patch[0], crop[1] // patch[1], crop[2] // patch[2])
        return CropSource(
            cases,
            crop,
            tokens,
            generalist=self.data.generalist if statistics is None else None,
            generator=statistics or self.state.generator,
        )

    def _shrink(self, error: torch.OutOfMemoryError) -> None:
        """Continue with half the crops per step: requests and other programs share the GPU.

        Raises:
            TrainingError: there is nothing left to halve.
        """
        smallest = smallest_batch(mixed=self._mixed)
        if self.preset.batch <= smallest:
            raise TrainingError(
                f"The GPU's memory does not suffice for {smallest} crops per step of "
                f"{self.preset.crop} voxels: {why(error)}. Choose a smaller preset, or train with "
                "device cpu."
            ) from error
        self.preset = replace(self.preset, batch=max(smallest, self.preset.batch // 2))
        logger.warning("GPU memory is short: continuing with %s crops per step", self.preset.batch)
        self._optimizer.zero_grad()
        torch.cuda.empty_cache()

    def _make_optimizer(self, stage: int) -> torch.optim.Optimizer:
        trained = [self.state.student, self.state.adapters]
        parameters = [p for network in trained if network for p in network.parameters()]
        name, self._rate = self.preset.optimizer, self.preset.rate
        if stage == 2 and self.recipe.rate_overwritten and self.preset.spec.dims == 2:
            name, self._rate = "adamw", RELEASED_2D_RATE  # difference 12
        decay = WEIGHT_DECAY[name]
        if name == "sgd":
            return torch.optim.SGD(parameters, self._rate, momentum=0.9, weight_decay=decay)
        return torch.optim.AdamW(parameters, self._rate, weight_decay=decay)

    def _update(self, losses: Losses) -> None:
        self._optimizer.zero_grad()
        torch.autograd.backward(losses.total)
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, CLIP)
        self._optimizer.step()

    def _follow(self) -> None:
        update_specialist(
            self.state.specialist,
            self.state.student,
            step=self._done + 1,
            momentum=self._momentum,
        )

    def _prompt_generalist(self) -> None:
        """Prompt the generalist, if heeded, with the specialist's masks of unlabeled scans."""
        generalist = self.data.generalist
        if generalist is None or not self.recipe.generalist:
            return
        classes = self.state.student.classes
        if not (generalist.probe or generalist.has_a_say(classes)):
            return
        specialist = self.state.specialist
        weights = {name: value.clone() for name, value in specialist.state_dict().items()}
        randomness = random_state(self.state, generalist, self.device)
        self._prompted = {"specialist": weights, "random": randomness}
        training = specialist.training
        specialist.eval()
        if generalist.probe is not None:
            self._compare(generalist.probe)
        for case in self.data.unlabeled:
            if generalist.has_a_say(classes):
                probs = self._specialist_says(case)
                mask, unsure = probs.argmax(dim=0), entropy(probs, dim=0)
                generalist.prompt(case, mask, classes, unsure)
            else:
                generalist.forget(case)
        specialist.train(training)

    def _compare(self, probe: Probe) -> None:
        """Let a probe answer for the labels that it finds better than the specialist."""
        dice = PooledDice(self.state.student.classes)
        for case in {case.name: case for case in self.data.labeled}.values():
            if case.label is not None:
                label = self._specialist_says(case).argmax(dim=0).numpy()
                dice.add(label, np.asarray(case.label[0]))
        probe.compare(dice.values)
        logger.info(
            "Dice of the specialist in annotated scans: %s; a probe answers for the labels %s",
            np.round(dice.values, 2).tolist(),
            sorted(probe.values),
        )

    def _specialist_says(self, case: TrainingCase) -> Tensor:
        """Return its probabilities `(C, I, J, K)` of a whole scan."""
        specialist, window = self.state.specialist, self.preset.crop
        return predict(specialist, case.tensor(), window, device=self.device).probs
