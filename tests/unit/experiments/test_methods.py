import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from uncol.experiments import methods
from uncol.experiments.methods import ABLATIONS, COMPARED, METHODS
from uncol.method.recipe import INTENDED
from uncol.training.step import Method


def trainer_of(make_trainer, name, **options):
    contestant = METHODS[name]
    return make_trainer(method=contestant.method, recipe=contestant.recipe, **options)


@pytest.fixture
def batch_of(make_trainer):
    """Makes a batch of a stage of a contestant, as the trainer does."""

    def make(name, stage=2):
        batches = []
        contestant = METHODS[name]

        def keep(learn):
            return lambda batch: batches.append(batch) or learn(batch)

        method = Method(keep(contestant.method.stage1), keep(contestant.method.stage2))
        list(make_trainer(method=method, recipe=contestant.recipe, steps=(1, 1)).run())
        return batches[stage - 1]

    return make


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(make_trainer, make_generalist, stub_model, name):
    contestant = METHODS[name]
    generalist = None
    if contestant.generalist:
        generalist = make_generalist(stub_model(3), mode=contestant.mode)
    trainer = trainer_of(make_trainer, name, generalist=generalist, steps=(1, 2))
    losses = [step.losses for step in trainer.run()]
    assert len(losses) == 3
    assert all(math.isfinite(value) for parts in losses for value in parts.values())


def test_the_compared_and_the_ablations_are_all_there_is():
    assert list(COMPARED)[:5] == ["supervised", "mean_teacher", "ua_mt", "bcp", "uncol"]
    assert all(entry.recipe != INTENDED for entry in ABLATIONS.values())
    assert {*COMPARED, *ABLATIONS} == METHODS.keys()


@pytest.mark.parametrize("stage", [1, 2])
def test_supervised_never_looks_at_unlabeled_crops(batch_of, stage):
    class Forbidden:
        def draw(self, *_, **__):
            pytest.fail("it asked for unlabeled crops")

    batch = replace(batch_of("supervised", stage), others=Forbidden())
    assert methods.supervised(batch).losses.parts.keys() == {"supervised"}


def test_the_averaged_student_follows_in_both_stages_of_a_baseline(make_trainer):
    trainer = trainer_of(make_trainer, "mean_teacher", steps=(1, 1))
    before = [p.clone() for p in trainer.state.specialist.parameters()]
    list(trainer.run())
    after = list(trainer.state.specialist.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)


def test_agreement_costs_nothing_where_student_and_specialist_agree(batch_of):
    batch = batch_of("mean_teacher")
    drawn = batch.others.draw(1, semantic=False)
    logits = methods.specialist_says(batch, drawn.clean).log()
    assert float(methods.agree(batch, logits, drawn)) == pytest.approx(0, abs=1e-6)
    other = logits + torch.tensor([5.0, 0]).view(2, 1, 1, 1)
    assert float(methods.agree(batch, other, drawn)) > 0


def test_ua_mt_disregards_what_its_noisy_specialist_is_unsure_of(batch_of, monkeypatch):
    batch = batch_of("ua_mt")
    drawn = batch.others.draw(1, semantic=False)
    half = torch.full((1, 2, 16, 16, 16), 0.5)
    half[0, :, :8] = torch.tensor([0.99, 0.01]).view(2, 1, 1, 1)  # sure in the first half only
    monkeypatch.setattr(methods, "specialist_says", lambda *_: half)
    logits = torch.zeros(1, 2, 16, 16, 16)
    logits[0, 0, 8:] = 9.0  # disagrees where it is unsure
    agreed = float(methods.agree_where_sure(batch, logits, drawn))
    assert agreed == pytest.approx(0.49**2, rel=1e-3)


def test_bcp_trusts_every_voxel_and_keeps_the_largest_part(batch_of, monkeypatch, make_ball):
    batch = batch_of("bcp")
    drawn = batch.others.draw(1, semantic=False)
    found = make_ball((16, 16, 16), (5, 5, 5), 3) | make_ball((16, 16, 16), (13, 13, 13), 1)
    logits = torch.from_numpy(np.stack([~found, found]).astype(np.float32))[None] * 0.1

    class Output:
        mean_logits = logits

    monkeypatch.setattr(batch.run.specialist, "forward", lambda _: Output)
    pseudo = methods.largest_pieces(batch, drawn)
    assert pseudo.trusted.all()
    assert torch.equal(
        pseudo.label[0].bool(), torch.from_numpy(make_ball((16, 16, 16), (5, 5, 5), 3))
    )
