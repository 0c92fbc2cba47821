import math
from dataclasses import replace

import pytest
import torch

from uncol.data.crops import CropMap
from uncol.generalist.letterbox import Letterbox
from uncol.generalist.probe import AnnotatedView, ProbeWorth, cross_validate, fit

CPU = torch.device("cpu")
SURE = ProbeWorth((1.0,), (1.0, 1.0))
STEPS = 60
CHANNELS = 16


def view(case, seed, *, dims=2, tells=True, size=16):
    """A view whose features say where the structure is, or nothing at all."""
    torch.manual_seed(seed)
    region = torch.zeros((size,) * dims, dtype=torch.uint8)
    low = [int(n) for n in torch.randint(0, size // 2, (dims,))]
    region[tuple(slice(n, n + size // 2) for n in low)] = 1
    image = torch.randn(1, CHANNELS, *region.shape)
    if tells:
        image[:, ::2] += 4 * region
    return AnnotatedView(case, image, region, Letterbox(region.shape, (1.0,) * dims, size))


def dice(mask, truth):
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


@pytest.mark.parametrize("dims", [2, 3])
def test_it_finds_in_other_cases_what_the_features_show(dims):
    size = 16 if dims == 2 else 8
    views = [view(name, seed, dims=dims, size=size) for seed, name in enumerate("aabbccdd")]
    judged = cross_validate(views, 2, seed=0, device=CPU, steps=STEPS)
    assert judged.dice[0] > 0.9
    other = view("other", 99, dims=dims, size=size)
    probe = fit(views, 2, seed=0, device=CPU, judged=judged, steps=STEPS)
    probs = probe.probs(other.image, other.box)
    assert probs.sum(dim=0) == pytest.approx(torch.ones(other.region.shape), abs=1e-4)
    assert dice(probs[1] > 0.5, other.region == 1) > 0.9


def test_what_it_knows_by_heart_is_worth_nothing():
    views = [view(name, seed, tells=False) for seed, name in enumerate("abcd")]
    assert cross_validate(views, 2, seed=0, device=CPU, steps=STEPS).dice[0] < 0.6


def test_it_answers_for_labels_that_it_finds_better_than_the_specialist():
    probe = fit([view("a", 0)], 2, seed=0, device=CPU, judged=SURE, steps=1)
    assert not probe.values
    for own, specialist, values in (
        (0.8, 0.9, {1}),  # the specialist has learned from these scans
        (0.7, 0.9, set()),
        (0.7, 0.3, {1}),
        (math.nan, 0.5, set()),
        (0.5, math.nan, set()),
        (0.0, 0.0, set()),
    ):
        probe.judged = replace(SURE, dice=(own,))
        probe.compare((specialist,))
        assert probe.values == values


def test_one_case_cannot_tell_what_it_is_worth():
    views = [view("a", 0), view("a", 1)]
    assert cross_validate(views, 2, seed=0, device=CPU, steps=STEPS) is None


def test_a_label_that_no_scan_holds_has_no_dice():
    views = [view(name, seed) for seed, name in enumerate("abcd")]
    judged = cross_validate(views, 4, seed=0, device=CPU, steps=STEPS)
    assert judged.dice[0] > 0.9
    assert not any(dice > 0 for dice in judged.dice[1:])


def test_what_is_not_annotated_teaches_nothing():
    views = [view(name, seed) for seed, name in enumerate("abcd")]
    half = []
    for one in views:  # what lies there is wrong, and not annotated
        wrong = torch.where(one.region == 1, 0, 1).to(torch.uint8)
        wrong[:, 8:] = one.region[:, 8:]
        wrong[:, :8] = 255
        half.append(replace(one, region=wrong))
    label, counts = half[0].on_grid(2)
    assert not counts[:, :8].any()
    assert counts[:, 8:].all()
    assert (label[:, 8:, 0] == views[0].region[:, 8:]).all()
    probe = fit(half, 2, seed=0, device=CPU, judged=SURE, steps=STEPS)
    other = view("other", 99)
    assert dice(probe.probs(other.image, other.box)[1] > 0.5, other.region == 1) > 0.8


def test_the_run_s_own_randomness_stays_and_a_seed_gives_the_same_probe():
    views = [view(name, seed) for seed, name in enumerate("ab")]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second, third = (
        fit(views, 2, seed=seed, device=CPU, judged=SURE, steps=5).network for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([p.flatten() for p in one.parameters()]) for one in (first, second, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_generalist_asks_its_probe_where_it_would_have_asked_the_specialist(
    stub_model, make_case, make_generalist
):
    model = stub_model(2)
    generalist = make_generalist(model)
    labeled = [make_case(name, labels=2, seed=seed) for seed, name in enumerate("abc")]
    other = make_case("other", labels=2, annotated=False, seed=9)
    for case in (*labeled, other):
        generalist.look(case, 4)
    generalist.silent = frozenset({1, 2})
    assert not generalist.has_a_say(3)
    judged = ProbeWorth((0.9, 0.1), (1.0, 1.0, 1.0))
    views = list(generalist.annotated_views(labeled))
    assert {one.case for one in views} == {"a", "b", "c"}
    generalist.probe = fit(views, 3, seed=0, device=CPU, judged=judged, steps=STEPS)
    assert not generalist.has_a_say(3)
    generalist.probe.compare((0.5, 0.5))
    assert generalist.has_a_say(3)
    model.prompted.clear()
    nowhere = torch.zeros(other.shape, dtype=torch.long)
    generalist.prompt(other, nowhere, 3, torch.zeros(other.shape))
    assert not model.prompted
    probs, exists = generalist.probs(other.name, CropMap.whole(other.shape), 3)
    assert (probs[0][exists] > 0.5).all()  # elsewhere may be the label that nobody answers for
    assert float(probs[1].max()) == 0
    generalist.silent = frozenset()
    generalist.prompt(other, nowhere, 3, torch.zeros(other.shape))
    _, exists = generalist.probs(other.name, CropMap.whole(other.shape), 3)
    assert set(exists.nonzero()[:, 2].tolist()) == {2, 6, 10, 14}


def test_annotated_scans_are_prompted_as_ever(stub_model, make_case, make_generalist):
    model = stub_model(2)
    generalist = make_generalist(model)
    case = make_case("a")
    generalist.look(case, 4)
    generalist.probe = fit(
        list(generalist.annotated_views([case])), 2, seed=0, device=CPU, judged=SURE, steps=1
    )
    generalist.probe.compare((0.0,))
    generalist.prompt_annotation(case, 2)
    assert model.prompted


def test_a_probe_answers_as_long_as_it_beats_the_specialist(
    make_trainer, stub_model, make_generalist
):
    generalist = make_generalist(stub_model(3))
    trainer = make_trainer(labels=2, generalist=generalist, steps=(0, 2), prompt_every=1)
    views = list(generalist.annotated_views(trainer.data.labeled))
    judged = ProbeWorth((1.0, 0.0), (1.0, 1.0, 1.0))
    generalist.probe = fit(views, 3, seed=0, device=CPU, judged=judged, steps=5)
    generalist.silent = frozenset({1, 2})
    steps = trainer.run()
    next(steps)
    assert generalist.probe.values == {1}
    other, whole = trainer.data.unlabeled[0], CropMap.whole((16, 16, 16))
    assert generalist._seen[other.name].probs is not None
    generalist.probe.judged = replace(judged, dice=(0.0, 0.0))  # the specialist has overtaken it
    next(steps)
    assert not generalist.probe.values
    _, exists = generalist.probs(other.name, whole, 3)
    assert not exists.any()  # what it said before is no longer heard
