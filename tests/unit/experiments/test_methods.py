import math

import numpy as np
import pytest
import torch

from uncol.experiments import methods
from uncol.experiments.methods import ABLATIONS, COMPARED, METHODS
from uncol.training.loop import Trainer


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(make_trainer, make_generalist, stub_teacher, name):
    method = METHODS[name]
    generalist = make_generalist(stub_teacher(3), mode=method.mode) if method.teacher else None
    trainer = make_trainer(
        generalist=generalist, mode=method.mode, steps=(1, 2), kind=method.make_trainer
    )
    losses = [step.losses for step in trainer.run()]
    assert len(losses) == 3
    assert all(math.isfinite(value) for parts in losses for value in parts.values())


def test_the_compared_and_the_ablations_are_all_there_is():
    assert COMPARED[:5] == ["supervised", "mean_teacher", "ua_mt", "bcp", "uncol"]
    assert all(METHODS[name].make_trainer.parts != Trainer.parts for name in ABLATIONS)
    assert {*COMPARED, *ABLATIONS} == METHODS.keys()


def test_supervised_never_looks_at_unlabeled_crops(make_trainer):
    trainer = make_trainer(steps=(1, 1), kind=methods.Supervised)
    asked = []
    source = trainer._source
    trainer._source = lambda cases: asked.append([c.name for c in cases]) or source(cases)
    drawn = []
    learn = trainer._learn
    trainer._learn = lambda *a: drawn.append(a) or learn(*a)
    list(trainer.run())
    assert all(weight == 0 for *_, weight in drawn)


def test_the_averaged_student_follows_in_both_stages_of_a_baseline(make_trainer):
    trainer = make_trainer(steps=(1, 1), kind=methods.MeanTeacher)
    before = [p.clone() for p in trainer.state.teacher.parameters()]
    list(trainer.run())
    after = list(trainer.state.teacher.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)


def test_agreement_costs_nothing_where_student_and_teacher_agree(make_trainer):
    trainer = make_trainer(steps=(1, 1), kind=methods.MeanTeacher)
    trainer._begin(2)
    drawn = trainer._sources[1].draw(1, semantic=False)
    logits = trainer._teacher_says(drawn.clean).log()
    assert float(trainer._consistency(logits, drawn)) == pytest.approx(0, abs=1e-6)
    assert float(trainer._consistency(logits + torch.tensor([5.0, 0]).view(2, 1, 1, 1), drawn)) > 0


def test_ua_mt_disregards_what_its_noisy_teacher_is_unsure_of(make_trainer, monkeypatch):
    trainer = make_trainer(steps=(1, 1), kind=methods.UncertainMeanTeacher)
    trainer._begin(2)
    drawn = trainer._sources[1].draw(1, semantic=False)
    half = torch.full((1, 2, 16, 16, 16), 0.5)
    half[0, :, :8] = torch.tensor([0.99, 0.01]).view(2, 1, 1, 1)  # sure in the first half only
    monkeypatch.setattr(trainer, "_teacher_says", lambda _: half)
    logits = torch.zeros(1, 2, 16, 16, 16)
    logits[0, 0, 8:] = 9.0  # disagrees where it is unsure
    agreed = float(trainer._consistency(logits, drawn))
    assert agreed == pytest.approx(0.49**2, rel=1e-3)


def test_bcp_trusts_every_voxel_and_keeps_the_largest_part(make_trainer, monkeypatch, make_ball):
    trainer = make_trainer(steps=(1, 1), kind=methods.CopyPaste)
    trainer._begin(2)
    drawn = trainer._sources[1].draw(1, semantic=False)
    found = make_ball((16, 16, 16), (5, 5, 5), 3) | make_ball((16, 16, 16), (13, 13, 13), 1)
    logits = torch.from_numpy(np.stack([~found, found]).astype(np.float32))[None] * 0.1

    class Output:
        mean_logits = logits

    monkeypatch.setattr(trainer.state.teacher, "forward", lambda _: Output)
    pseudo = trainer._pseudo_label(drawn, 0)
    assert pseudo.trusted.all()
    assert torch.equal(
        pseudo.label[0].bool(), torch.from_numpy(make_ball((16, 16, 16), (5, 5, 5), 3))
    )
