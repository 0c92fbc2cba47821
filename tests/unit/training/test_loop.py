import copy
import math
from dataclasses import replace

import pytest
import torch

from uncol.errors import TrainingError
from uncol.experiments.methods import METHODS
from uncol.inference.predict import predict
from uncol.method import stages
from uncol.method.recipe import INTENDED, RELEASED
from uncol.method.stages import Losses
from uncol.training import uncol
from uncol.training.step import Method, StepResult
from uncol.training.uncol import UNCOL, trust_shares


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
@pytest.mark.parametrize(("dims", "model_dims"), [(2, 2), (3, 2), (3, 3)])
def test_any_student_learns_from_any_generalist(
    make_trainer, tiny_preset, stub_model, make_generalist, dims, model_dims, mix_until
):
    generalist = make_generalist(stub_model(model_dims))
    preset = tiny_preset(dims, batch=4, mix_until=mix_until)
    trainer = make_trainer(dims=dims, labels=2, generalist=generalist, steps=(1, 1), preset=preset)
    first, second = trainer.run()
    assert first.losses["semantic"] > 0
    assert first.losses["visual"] > 0
    assert second.losses["visual"] > 0


def test_neither_specialist_nor_generalist_is_trained_by_gradient(
    make_trainer, stub_model, make_generalist
):
    model = stub_model(3)
    before = copy.deepcopy(model.network.state_dict())
    trainer = make_trainer(generalist=make_generalist(model), steps=(2, 2))
    list(trainer.run())
    after = model.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in model.network.parameters())
    assert all(p.grad is None for p in trainer.state.specialist.parameters())
    assert any(p.grad is not None for p in trainer.state.adapters.parameters())


def test_adapters_train_along_with_the_student(make_trainer, stub_model, make_generalist):
    trainer = make_trainer(generalist=make_generalist(stub_model(3)), steps=(3, 1))
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
    monkeypatch.setattr(uncol, "fuse", lambda *_, **__: pytest.fail("no pseudo-label needed"))
    steps = list(trainer.run())
    assert [step.stage for step in steps][-1] == 2
    assert all(step.trust == {} for step in steps)
    assert "pseudo" in steps[-1].losses


def test_the_generalist_is_prompted_anew_only_now_and_then(
    make_trainer, stub_model, make_generalist, monkeypatch
):
    generalist = make_generalist(stub_model(3))
    trainer = make_trainer(generalist=generalist, steps=(1, 5), prompt_every=2)
    asked = []
    monkeypatch.setattr(generalist, "prompt", lambda case, *_: asked.append(case.name))
    list(trainer.run())
    assert asked == ["u"] * 3  # before steps 0, 2 and 4 of stage 2


def test_scans_are_not_segmented_for_a_generalist_that_is_heeded_on_no_label(
    make_trainer, stub_model, make_generalist, monkeypatch
):
    generalist = make_generalist(stub_model(3))
    segmented = []
    monkeypatch.setattr(
        "uncol.training.loop.predict",
        lambda *args, **kwargs: segmented.append(1) or predict(*args, **kwargs),
    )
    for silent, so_far in ((frozenset({1}), [1]), (frozenset({1, 2}), [1])):
        trainer = make_trainer(labels=2, generalist=generalist, steps=(0, 1))
        generalist.silent = silent
        list(trainer.run())
        assert segmented == so_far


def heard(method, hear):
    """Return a method that shows each batch to `hear` before it learns from it."""

    def listening(learn):
        return lambda batch: hear(batch) or learn(batch)

    return Method(listening(method.stage1), listening(method.stage2))


@pytest.mark.parametrize(("mode", "cycles"), [("intended", 1), ("release", 2)])
def test_the_rate_falls_to_nearly_nothing_over_the_run_or_as_released_in_each_stage(
    make_trainer, mode, cycles
):
    trainer = make_trainer(steps=(4, 4), mode=mode)
    rates = []
    for _ in trainer.run():
        rates.append(trainer.state_dict()["optimizer"]["param_groups"][0]["lr"])
    first, steps = trainer.preset.rate, 8 // cycles
    expected = [first * (1 - step / steps) ** 0.9 for step in range(steps)]
    assert rates == pytest.approx(expected * cycles)


def test_one_cycle_keeps_what_the_optimizer_knows(make_trainer):
    trainer = make_trainer(steps=(2, 1))
    taken = []
    for _ in trainer.run():
        state = trainer.state_dict()["optimizer"]["state"]
        taken.append(int(next(iter(state.values()))["step"]))
    assert taken == [1, 2, 3]


def test_the_specialist_forgets_sooner_in_a_short_run(make_trainer):
    trainer = make_trainer(steps=(4, 4))  # 3.5 % of 8 steps are less than one
    list(trainer.run())
    pairs = zip(
        trainer.state.specialist.parameters(), trainer.state.student.parameters(), strict=True
    )
    assert all(torch.equal(average, last) for average, last in pairs)


def test_gradients_are_clipped(make_trainer):
    def steep(batch):
        return StepResult(Losses(sum(p.sum() for p in batch.run.student.parameters()) * 1e6), {})

    trainer = make_trainer(method=Method(steep, steep))
    next(trainer.run())
    norm = torch.cat([p.grad.flatten() for p in trainer.state.student.parameters()]).norm()
    assert float(norm) == pytest.approx(5.0, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "upright"),
    [("uncol", True), ("uncol_release", False), ("uncol_turned_views", False), ("bcp", False)],
)
def test_the_pseudo_label_is_made_on_clean_views(make_trainer, name, upright):
    contestant = METHODS[name]
    drawn = []

    class Kept:
        def __init__(self, source):
            self.source = source

        def draw(self, count, **options):
            drawn.append(self.source.draw(count, **options))
            return drawn[-1]

    def stage2(batch):
        return contestant.method.stage2(replace(batch, others=Kept(batch.others)))

    method = Method(contestant.method.stage1, stage2)
    trainer = make_trainer(steps=(1, 1), method=method, recipe=contestant.recipe)
    seen = []
    trainer.state.specialist.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
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


def test_with_too_little_gpu_memory_it_goes_on_with_fewer_crops(make_trainer, tiny_preset):
    drawn = []

    def short(batch):
        drawn.append(batch.preset.batch)
        if batch.preset.batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return UNCOL.stage1(batch)

    method = Method(short, UNCOL.stage2)
    trainer = make_trainer(preset=replace(tiny_preset(), batch=8), steps=(2, 2), method=method)
    assert [step.number for step in trainer.run()] == [1, 2, 3, 4]
    assert drawn == [8, 4, 2, 2]


@pytest.fixture
def fine_tuned(monkeypatch):
    """Collect annotated crops, others, mask and weight of each step of stage 2."""
    finetune, seen = stages.finetune, []

    def watch(student, adapters, labeled, others, mask, **named):
        seen.append((len(labeled.image), len(others.image), mask, named["pseudo_weight"]))
        return finetune(student, adapters, labeled, others, mask, **named)

    monkeypatch.setattr(stages, "finetune", watch)
    return seen


@pytest.mark.parametrize(("mix_until", "last"), [(1.0, 2), (0.5, 1), (0.0, 1)])
def test_the_second_stage_shrinks_to_two_crops(
    make_trainer, tiny_preset, monkeypatch, mix_until, last
):
    finetune, held = stages.finetune, []

    def short(student, adapters, labeled, unlabeled, mask, **named):
        held.append(len(labeled.image) + len(unlabeled.image))
        if held[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return finetune(student, adapters, labeled, unlabeled, mask, **named)

    monkeypatch.setattr(stages, "finetune", short)
    trainer = make_trainer(preset=tiny_preset(batch=4, mix_until=mix_until), steps=(1, 2))
    assert [step.number for step in trainer.run()] == [1, 2, 3]
    assert trainer.preset.batch == last


def test_without_unlabeled_scans_whole_crops_are_all_annotated_and_count_alike(
    make_trainer, tiny_preset, fine_tuned
):
    preset = tiny_preset(batch=4, mix_until=0.0)
    trainer = make_trainer(steps=(1, 2), unlabeled=False, preset=preset)
    list(trainer.run())
    assert fine_tuned == [(2, 2, None, 1.0)] * 2


def test_where_even_two_crops_are_too_much_the_remedy_is_told(make_trainer):
    def never(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer = make_trainer(method=Method(never, never))
    with pytest.raises(TrainingError, match="device cpu"):
        list(trainer.run())


def test_without_mixing_annotated_and_pseudo_labeled_crops_stay_whole(make_trainer):
    mixed = []
    method = heard(UNCOL, lambda batch: mixed.append(batch.mask(2) is not None))
    trainer = make_trainer(method=method, recipe=replace(INTENDED, mix_until=0.0))
    assert all(math.isfinite(v) for step in trainer.run() for v in step.losses.values())
    assert mixed == [False] * 3


@pytest.mark.parametrize(
    ("mix_until", "recipe", "mixed"),
    [(1.0, INTENDED, True), (0.0, INTENDED, False), (0.0, RELEASED, True)],
)
def test_small_parts_of_scans_are_not_mixed_unless_the_code_did(
    make_trainer, tiny_preset, mix_until, recipe, mixed
):
    seen = []
    method = heard(UNCOL, lambda batch: seen.append(batch.mask(2) is not None))
    preset = tiny_preset(mix_until=mix_until)
    trainer = make_trainer(method=method, recipe=recipe, preset=preset)
    assert all(math.isfinite(v) for step in trainer.run() for v in step.losses.values())
    assert seen == [mixed] * 3


def test_crops_that_are_not_mixed_are_all_annotated_and_pseudo_labels_count_late(
    make_trainer, tiny_preset, fine_tuned
):
    trainer = make_trainer(steps=(1, 4), preset=tiny_preset(batch=4, mix_until=0.0))
    list(trainer.run())
    assert [made_of for *made_of, _ in fine_tuned] == [[4, 3, None]] * 4
    weights = [weight for *_, weight in fine_tuned]
    assert weights == sorted(weights)
    assert weights[0] < 0.01
    assert weights[-1] > 0.3


def test_mixed_crops_give_way_to_whole_ones(make_trainer, tiny_preset, fine_tuned):
    mixed = []
    method = heard(UNCOL, lambda batch: mixed.append(batch.mixed))
    preset = tiny_preset(batch=4, mix_until=0.5)
    list(make_trainer(steps=(1, 4), preset=preset, method=method).run())
    assert mixed == [True, True, True, False, False]  # the first stage mixes, too
    made_of = [(*counts, mask is None) for *counts, mask, _ in fine_tuned]
    assert made_of == [(2, 2, False)] * 2 + [(4, 3, True)] * 2


def test_a_fixed_gate_does_not_open_with_time(make_trainer, monkeypatch):
    gates = []
    fuse = uncol.fuse

    def listening(*arguments, **named):
        gates.append(named["threshold"])
        return fuse(*arguments, **named)

    monkeypatch.setattr(uncol, "fuse", listening)
    list(make_trainer(steps=(1, 3), recipe=replace(INTENDED, threshold=0.6)).run())
    assert gates == [0.6] * 3
