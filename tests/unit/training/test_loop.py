import copy
import math
from dataclasses import replace

import pytest
import torch

from uncol.errors import TrainingError
from uncol.experiments.methods import METHODS
from uncol.inference.predict import predict
from uncol.method.parts import Parts
from uncol.training.loop import Trainer, trust_shares


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_both_stages_run_step_by_step_with_their_terms(make_trainer):
    steps = list(make_trainer(steps=(2, 3)).run())
    assert [(step.stage, step.number) for step in steps] == [(1, 1), (1, 2), (2, 3), (2, 4), (2, 5)]
    assert set(steps[0].losses) == {"supervised", "semantic", "visual"}
    assert set(steps[-1].losses) == {"annotated", "pseudo", "visual"}
    assert set(steps[-1].trust) == {"trust_generalist", "trust_specialist", "trust_any"}
    assert all(math.isfinite(value) for step in steps for value in step.losses.values())


def test_the_student_learns_the_phantom(make_trainer):
    trainer = make_trainer(steps=(18, 1))
    losses = [step.losses["supervised"] for step in trainer.run() if step.stage == 1]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_the_same_seed_gives_the_same_student(make_trainer):
    results = []
    for _ in range(2):
        trainer = make_trainer(steps=(2, 2))
        list(trainer.run())
        results.append(weights(trainer.state.student))
    assert torch.equal(*results)


@pytest.mark.parametrize("mix_until", [0.0, 1.0])
@pytest.mark.parametrize(("dims", "teacher_dims"), [(2, 2), (3, 2), (3, 3)])
def test_any_student_learns_from_any_teacher(
    make_trainer, tiny_preset, stub_teacher, make_generalist, dims, teacher_dims, mix_until
):
    generalist = make_generalist(stub_teacher(teacher_dims))
    preset = tiny_preset(dims, batch=4, mix_until=mix_until)
    trainer = make_trainer(dims=dims, labels=2, generalist=generalist, steps=(1, 1), preset=preset)
    first, second = trainer.run()
    assert first.losses["semantic"] > 0
    assert first.losses["visual"] > 0
    assert second.losses["visual"] > 0


def test_neither_teacher_is_trained_by_gradient(make_trainer, stub_teacher, make_generalist):
    teacher = stub_teacher(3)
    before = copy.deepcopy(teacher.network.state_dict())
    trainer = make_trainer(generalist=make_generalist(teacher), steps=(2, 2))
    list(trainer.run())
    after = teacher.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in teacher.network.parameters())
    assert all(p.grad is None for p in trainer.state.teacher.parameters())
    assert any(p.grad is not None for p in trainer.state.adapters.parameters())


def test_adapters_train_along_with_the_student(make_trainer, stub_teacher, make_generalist):
    trainer = make_trainer(generalist=make_generalist(stub_teacher(3)), steps=(3, 1))
    before = weights(trainer.state.adapters.semantic), weights(trainer.state.adapters.visual)
    list(trainer.run())
    after = weights(trainer.state.adapters.semantic), weights(trainer.state.adapters.visual)
    assert not torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("mix_until", [0.0, 1.0])
def test_without_unlabeled_cases_nothing_is_guessed(
    make_trainer, tiny_preset, monkeypatch, mix_until
):
    trainer = make_trainer(unlabeled=False, preset=tiny_preset(mix_until=mix_until))
    monkeypatch.setattr(trainer, "_pseudo_label", lambda *_: pytest.fail("no pseudo-label needed"))
    steps = list(trainer.run())
    assert [step.stage for step in steps][-1] == 2
    assert all(step.trust == {} for step in steps)
    assert "pseudo" in steps[-1].losses


def test_the_generalist_is_prompted_anew_only_now_and_then(
    make_trainer, stub_teacher, make_generalist, monkeypatch
):
    generalist = make_generalist(stub_teacher(3))
    trainer = make_trainer(generalist=generalist, steps=(1, 5), prompt_every=2)
    asked = []
    monkeypatch.setattr(generalist, "prompt", lambda case, *_: asked.append(case.name))
    list(trainer.run())
    assert asked == ["u"] * 3  # before steps 0, 2 and 4 of stage 2


def test_scans_are_not_segmented_for_a_generalist_that_is_heeded_on_no_label(
    make_trainer, stub_teacher, make_generalist, monkeypatch
):
    generalist = make_generalist(stub_teacher(3))
    trainer = make_trainer(labels=2, generalist=generalist, steps=(0, 1))
    segmented = []
    monkeypatch.setattr(
        "uncol.training.loop.predict",
        lambda *args, **kwargs: segmented.append(1) or predict(*args, **kwargs),
    )
    generalist.silent = frozenset({1})
    trainer._prompt_generalist()
    assert segmented == [1]
    generalist.silent = frozenset({1, 2})
    trainer._prompt_generalist()
    assert segmented == [1]


def test_the_rate_falls_to_nearly_nothing_in_each_stage(make_trainer, monkeypatch):
    trainer = make_trainer(steps=(4, 4))
    rates = []
    update = trainer._update

    def listen(losses):
        rates.append(trainer._optimizer.param_groups[0]["lr"])
        update(losses)

    monkeypatch.setattr(trainer, "_update", listen)
    list(trainer.run())
    first = trainer.preset.rate
    expected = [first * (1 - step / 4) ** 0.9 for step in range(4)]
    assert rates == pytest.approx(expected * 2)


def test_gradients_are_clipped(make_trainer):
    trainer = make_trainer()
    trainer._begin(1)

    class Steep:
        total = sum(p.sum() for p in trainer.state.student.parameters()) * 1e6

    trainer._update(Steep)
    norm = torch.cat([p.grad.flatten() for p in trainer.state.student.parameters()]).norm()
    assert float(norm) == pytest.approx(5.0, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "mode", "upright"),
    [
        (Trainer, "intended", True),
        (Trainer, "release", False),
        (METHODS["uncol_turned_views"].make_trainer, "intended", False),
        (METHODS["bcp"].make_trainer, "intended", False),
    ],
)
def test_the_pseudo_label_is_made_on_clean_views(make_trainer, kind, mode, upright):
    trainer = make_trainer(steps=(1, 1), mode=mode, kind=kind)
    seen = []
    trainer.state.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    drawn = []
    source = trainer._source

    def listening(cases):
        made = source(cases)
        draw = made.draw

        def keep(count, **options):
            drawn.append(draw(count, **options))
            return drawn[-1]

        made.draw = keep
        return made

    trainer._source = listening
    list(trainer.run())
    assert torch.equal(seen[-1], drawn[-1].clean)
    looked = zip(drawn[-1].views, drawn[-1].places, strict=True)
    assert all((view is not place) == upright for view, place in looked)


def test_trust_shares_are_shares():
    class Half:
        generalist = torch.tensor([True, False])
        specialist = torch.tensor([False, False])
        trusted = torch.tensor([True, False])

    assert trust_shares(Half) == {
        "trust_generalist": 0.5,
        "trust_specialist": 0.0,
        "trust_any": 0.5,
    }


def test_with_too_little_gpu_memory_it_goes_on_with_fewer_crops(
    make_trainer, tiny_preset, monkeypatch
):
    from dataclasses import replace

    trainer = make_trainer(preset=replace(tiny_preset(), batch=8), steps=(2, 2))
    pretrain = trainer._pretrain
    drawn = []

    def short(step):
        drawn.append(trainer.preset.batch)
        if trainer.preset.batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pretrain(step)

    monkeypatch.setattr(trainer, "_pretrain", short)
    assert [step.number for step in trainer.run()] == [1, 2, 3, 4]
    assert drawn == [8, 4, 2, 2]


@pytest.fixture
def fine_tuned(monkeypatch):
    """Collect annotated crops, others, mask and weight of each step of stage 2."""
    from uncol.training import loop

    finetune, seen = loop.finetune, []

    def watch(student, adapters, labeled, others, mask, **named):
        seen.append((len(labeled.image), len(others.image), mask, named["pseudo_weight"]))
        return finetune(student, adapters, labeled, others, mask, **named)

    monkeypatch.setattr(loop, "finetune", watch)
    return seen


@pytest.mark.parametrize(("mix_until", "last"), [(1.0, 2), (0.5, 1), (0.0, 1)])
def test_the_second_stage_shrinks_to_two_crops(
    make_trainer, tiny_preset, monkeypatch, mix_until, last
):
    from uncol.training import loop

    finetune, held = loop.finetune, []

    def short(student, adapters, labeled, unlabeled, mask, **named):
        held.append(len(labeled.image) + len(unlabeled.image))
        if held[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return finetune(student, adapters, labeled, unlabeled, mask, **named)

    monkeypatch.setattr(loop, "finetune", short)
    trainer = make_trainer(preset=tiny_preset(batch=4, mix_until=mix_until), steps=(1, 2))
    assert [step.number for step in trainer.run()] == [1, 2, 3]
    assert trainer.preset.batch == last


def test_without_unlabeled_scans_whole_crops_are_all_annotated_and_count_alike(
    make_trainer, fine_tuned
):
    trainer = make_trainer(steps=(1, 2), unlabeled=False)
    trainer.preset = replace(trainer.preset, batch=4, mix_until=0.0)
    list(trainer.run())
    assert fine_tuned == [(2, 2, None, 1.0)] * 2


def test_where_even_two_crops_are_too_much_the_remedy_is_told(make_trainer, monkeypatch):
    trainer = make_trainer()

    def never(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "_pretrain", never)
    with pytest.raises(TrainingError, match="device cpu"):
        list(trainer.run())


def test_without_mixing_annotated_and_pseudo_labeled_crops_stay_whole(make_trainer):
    class Unmixed(Trainer):
        parts = Parts(mix_until=0.0)

    trainer = make_trainer(kind=Unmixed)
    assert trainer._mask(2) is None
    assert all(math.isfinite(v) for step in trainer.run() for v in step.losses.values())


@pytest.mark.parametrize(
    ("mix_until", "mode", "mixed"),
    [(1.0, "intended", True), (0.0, "intended", False), (0.0, "release", True)],
)
def test_small_parts_of_scans_are_not_mixed_unless_the_code_did(
    make_trainer, mix_until, mode, mixed
):
    trainer = make_trainer(mode=mode)
    trainer.preset = replace(trainer.preset, mix_until=mix_until)
    assert (trainer._mask(2) is not None) == mixed
    assert all(math.isfinite(v) for step in trainer.run() for v in step.losses.values())


def test_crops_that_are_not_mixed_are_all_annotated_and_pseudo_labels_count_late(
    make_trainer, fine_tuned
):
    trainer = make_trainer(steps=(1, 4))
    trainer.preset = replace(trainer.preset, batch=4, mix_until=0.0)
    list(trainer.run())
    assert [made_of for *made_of, _ in fine_tuned] == [[4, 3, None]] * 4
    weights = [weight for *_, weight in fine_tuned]
    assert weights == sorted(weights)
    assert weights[0] < 0.01
    assert weights[-1] > 0.3


def test_mixed_crops_give_way_to_whole_ones(make_trainer, fine_tuned):
    trainer = make_trainer(steps=(1, 4))
    trainer.preset = replace(trainer.preset, batch=4, mix_until=0.5)
    assert trainer._mask(4) is not None  # as in the first stage
    list(trainer.run())
    made_of = [(*counts, mask is None) for *counts, mask, _ in fine_tuned]
    assert made_of == [(2, 2, False)] * 2 + [(4, 3, True)] * 2


def test_a_fixed_gate_does_not_open_with_time(make_trainer, monkeypatch):
    from uncol.training import loop

    class Fixed(Trainer):
        parts = Parts(threshold=0.6)

    gates = []
    fuse = loop.fuse
    monkeypatch.setattr(loop, "fuse", lambda *a, **n: gates.append(n["threshold"]) or fuse(*a, **n))
    list(make_trainer(steps=(1, 3), kind=Fixed).run())
    assert gates == [0.6] * 3
