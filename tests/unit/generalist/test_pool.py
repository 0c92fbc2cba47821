from dataclasses import replace

import numpy as np
import pytest
import torch

from uncol.data.crops import CropMap
from uncol.generalist.open import better_axis


def whole(shape):
    return CropMap(shape, torch.eye(3), torch.zeros(3))


def the_label(case):
    return torch.from_numpy(case.label[0]).long()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_probabilities_lie_on_the_slices_that_were_seen(
    stub_model, make_case, make_generalist, axis
):
    generalist = make_generalist(stub_model(2), axis=axis)
    case = make_case(shape=(12, 14, 16))
    generalist.look(case, 4)
    generalist.prompt(case, the_label(case), 2, None)
    probs, exists = generalist.probs(case.name, whole(case.shape), 2)
    size = case.shape[axis]
    seen = {int((part + 0.5) * size / 4) for part in range(4)}
    assert set(exists.nonzero()[:, axis].tolist()) == seen
    assert exists.float().mean() == pytest.approx(4 / size)
    assert float(probs[0][~exists].max()) == 0
    found, truth = (probs[0] > 0.5)[exists], (the_label(case) == 1)[exists]
    # the stub fills the whole box around a disc, and a disc is pi / 4 of its box
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8


def test_a_3d_generalist_sees_every_slice_in_one_view(stub_model, make_case, make_generalist):
    model = stub_model(3)
    generalist = make_generalist(model)
    case = make_case(shape=(10, 16, 12))
    generalist.look(case, 5)
    generalist.prompt(case, the_label(case), 2, None)
    probs, exists = generalist.probs(case.name, whole(case.shape), 2)
    assert len(model.encoded) == 1
    assert exists.all()
    inside = probs[0] > 0.5
    assert inside.any()
    centre = inside.nonzero().float().mean(dim=0)
    assert (centre - (torch.tensor(case.shape) - 1) / 2).abs().max() < 2.5


def test_a_case_that_was_not_prompted_has_no_probability(stub_model, make_case, make_generalist):
    generalist = make_generalist(stub_model(2))
    case = make_case()
    for looked in (False, True):
        if looked:
            generalist.look(case, 2)
        probs, exists = generalist.probs(case.name, whole((4, 4, 4)), 3)
        assert probs.shape == (2, 4, 4, 4)
        assert not exists.any()


def test_outside_the_scan_the_generalist_says_nothing(stub_model, make_case, make_generalist):
    generalist = make_generalist(stub_model(2))
    case = make_case()
    generalist.look(case, 16)
    generalist.prompt(case, the_label(case), 2, None)
    place = CropMap((8, 8, 8), torch.eye(3), torch.tensor([-4.0, 12.0, 4.0]))
    _, exists = generalist.probs(case.name, place, 2)
    assert not exists[:4].any()
    assert not exists[:, 4:].any()
    assert exists[4:, :4].all()


@pytest.mark.parametrize("dims", [2, 3])
def test_states_are_sampled_where_the_crop_lies(stub_model, make_case, make_generalist, dims):
    class Marking(stub_model):
        """Its states say how bright the view is at each place, whatever the rest."""

        def encode(self, views, *, raw=False):
            encoded = super().encode(views, raw=raw)
            pool = (
                torch.nn.functional.avg_pool2d if self.dims == 2 else torch.nn.functional.avg_pool3d
            )
            seen = pool(views, 4).expand_as(encoded.image)
            return replace(encoded, hidden=(seen, seen))

    generalist = make_generalist(Marking(dims))
    case = make_case()
    ramp = np.linspace(-1, 1, 16)[:, None, None] + np.zeros((16, 16, 16))
    case = replace(case, image=ramp[None].astype(np.float16), low=-1.0)
    generalist.look(case, 16)
    place = CropMap((8, 8, 8), torch.eye(3), torch.tensor([4.0, 4.0, 4.0]))
    known = generalist.knowledge(case, place, (2, 2, 2), semantic=False)
    expected = [np.interp(i, range(16), np.linspace(-1, 1, 16)) for i in (5.5, 9.5)]
    assert known.hidden[0].shape == (1, 6, 2, 2, 2)
    assert known.hidden[0][0, 0, :, 0, 0].tolist() == pytest.approx(expected, abs=0.05)
    assert float(known.valid.min()) == 1


def test_tokens_far_from_any_seen_slice_are_not_valid(stub_model, make_case, make_generalist):
    generalist = make_generalist(stub_model(2))
    case = make_case()
    generalist.look(case, 1)  # slice 8
    known = generalist.knowledge(case, whole(case.shape), (4, 4, 8), semantic=False)
    # tokens are 2 slices long, their centres at 0.5, 2.5 ... 6.5, 8.5 ...; 1.5 slices is near
    assert known.valid[0, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]


def test_tokens_outside_the_scan_are_not_valid(stub_model, make_case, make_generalist):
    generalist = make_generalist(stub_model(3))
    case = make_case()
    generalist.look(case, 1)
    place = CropMap((8, 8, 8), torch.eye(3), torch.tensor([12.0, 0.0, 0.0]))
    known = generalist.knowledge(case, place, (2, 2, 2), semantic=False)
    assert known.valid[0, 0, :, 0, 0].tolist() == [1, 0]


def test_semantic_tokens_are_there_after_an_annotation_was_prompted(
    stub_model, make_case, make_generalist
):
    generalist = make_generalist(stub_model(2))
    case = make_case(labels=2)
    generalist.look(case, 4)
    assert generalist.knowledge(case, whole((16,) * 3), (4,) * 3, semantic=True).semantic is None
    generalist.prompt(case, the_label(case), 3, torch.zeros(16, 16, 16))
    assert generalist.knowledge(case, whole((16,) * 3), (4,) * 3, semantic=True).semantic is None
    generalist.prompt(case, the_label(case), 3, None)
    known = generalist.knowledge(case, whole((16,) * 3), (4,) * 3, semantic=True)
    assert known.semantic.shape == (1, 12, 4, 4, 4)
    assert generalist.knowledge(case, whole((16,) * 3), (4,) * 3, semantic=False).semantic is None


def test_every_view_is_encoded_once(stub_model, make_case, make_generalist):
    model = stub_model(2)
    generalist = make_generalist(model)
    generalist.look(make_case(), 4)
    generalist.look(make_case(), 4)
    assert len(model.encoded) == 4


def test_another_generalist_s_embeddings_are_not_taken(stub_model, make_case, make_generalist):
    first, second = stub_model(2), stub_model(2)
    second.fingerprint = "stub v2"
    for model in (first, second):
        make_generalist(model).look(make_case(), 3)
    assert len(first.encoded) == len(second.encoded) == 3


def test_the_generalist_is_not_asked_for_gradients(stub_model, make_case, make_generalist):
    model = stub_model(2)
    generalist = make_generalist(model)
    generalist.look(make_case(), 4)
    known = generalist.knowledge(make_case(), whole((16,) * 3), (4,) * 3, semantic=False)
    assert not any(level.requires_grad for level in known.hidden)


def test_the_slice_axis_is_the_one_on_which_the_generalist_agrees_best(
    stub_model, make_case, make_generalist
):
    i, j, k = np.meshgrid(*[np.arange(16)] * 3, indexing="ij")
    # across j a diagonal shows, which no box fits; along it a filled bar, which a box fits
    label = ((abs(i - k) <= 1) & (j > 1) & (j < 14)).astype(np.uint8)
    model = stub_model(2)
    for turned, misfit in ((label, 1), (label.transpose(1, 0, 2), 0)):
        case = replace(make_case(), label=turned[None])
        chosen = better_axis(model, [case], lambda axis: make_generalist(model, axis=axis))
        assert chosen != misfit
    assert better_axis(
        model,
        [replace(make_case(), label=np.zeros((1, 16, 16, 16), dtype=np.uint8) + (abs(i - j) <= 1))],
        lambda axis: make_generalist(model, axis=axis),
    ) in (0, 1)


def test_thick_slices_fix_the_axis_without_asking_the_generalist(stub_model, make_case):
    model = stub_model(2)
    case = replace(make_case(), spacing_mm=(1.0, 1.0, 4.0))
    assert better_axis(model, [case], lambda _: pytest.fail("asked")) == 2
    assert better_axis(model, [], lambda _: pytest.fail("asked")) == 2
    assert better_axis(stub_model(3), [make_case()], lambda _: pytest.fail("asked")) == 2


class HoleModel:
    """Makes a stub that finds the middle of a box only, as a foundation model does with a ring."""

    def __new__(cls, stub_model, dims):
        class Hole(stub_model):
            def prompt(self, image, prompts):
                prompted = super().prompt(image, prompts)
                middle = torch.full_like(prompted.logits, -4.0)
                size = prompted.logits.shape[-1]
                inner = (slice(None), *[slice(size // 2 - 1, size // 2 + 1)] * self.dims)
                middle[inner] = 4.0
                return replace(prompted, logits=middle)

        return Hole(dims)


def with_ring(case):
    """Label 1 is a ring around the middle, label 2 a box in the corner."""
    label = np.zeros(case.shape, dtype=np.uint8)
    label[3:13, 3:13, 2:14] = 1
    label[5:11, 5:11, 2:14] = 0
    return replace(case, label=label[None])


def test_a_generalist_worse_than_the_box_it_is_given_is_set_aside(
    stub_model, make_case, make_generalist
):
    model = HoleModel(stub_model, 2)
    generalist = make_generalist(model)
    ring, other = with_ring(make_case("a")), make_case("u", annotated=False)
    for case in (ring, other):
        generalist.look(case, 4)
    generalist.prompt_annotation(ring, 2)
    (worth,) = generalist.weigh([ring], 2)
    assert worth.dice == 0.0
    assert worth.box > 0.6
    assert not worth.heeded
    assert generalist.silent == {1}

    asked = len(model.prompted)
    mask = torch.from_numpy(ring.label[0]).long()
    generalist.prompt(other, mask, 2, torch.zeros(other.shape))
    assert len(model.prompted) == asked  # no pass whose result is not used
    probs, exists = generalist.probs("u", whole(other.shape), 2)
    assert float(probs.max()) == 0
    assert not exists.any()  # nor does it say that there is background


def test_beside_a_label_set_aside_only_masks_of_the_others_count(
    stub_model, make_case, make_generalist
):
    generalist = make_generalist(stub_model(2))
    case = make_case("u", annotated=False)
    generalist.look(case, 4)
    generalist.silent = frozenset({1})
    mask = torch.zeros(case.shape, dtype=torch.long)
    mask[2:6, 2:6] = 1
    mask[9:13, 9:13] = 2
    generalist.prompt(case, mask, 3, torch.zeros(case.shape))
    probs, exists = generalist.probs("u", whole(case.shape), 3)
    assert exists.any()
    assert torch.equal(exists, probs[1] > 0.5)


def test_a_generalist_that_helps_is_heeded(stub_model, make_case, make_generalist):
    class Disc(stub_model):
        """Finds the disc in the box."""

        def prompt(self, image, prompts):
            prompted = super().prompt(image, prompts)
            (low_i, low_j, high_i, high_j) = (float(v) for v in prompts.boxes[0])
            i, j = torch.meshgrid(*[torch.arange(self.side) + 0.5] * 2, indexing="ij")
            radius = (high_i - low_i) / 2 - 0.3
            inside = (i - (low_i + high_i) / 2) ** 2 + (j - (low_j + high_j) / 2) ** 2 < radius**2
            return replace(prompted, logits=inside[None].float() * 8 - 4)

    generalist = make_generalist(Disc(2))
    case = make_case()
    generalist.look(case, 4)
    generalist.prompt_annotation(case, 2)
    (worth,) = generalist.weigh([case], 2)
    assert worth.dice > worth.box
    assert generalist.silent == frozenset()


def test_labels_that_no_view_has_stay_heeded(stub_model, make_case, make_generalist):
    generalist = make_generalist(stub_model(2))
    case = make_case()
    generalist.look(case, 4)
    generalist.prompt_annotation(case, 3)
    _, missing = generalist.weigh([case], 3)
    assert np.isnan(missing.dice)
    assert missing.heeded


def test_a_3d_generalist_is_weighed_on_whole_scans(stub_model, make_case, make_generalist):
    model = HoleModel(stub_model, 3)
    generalist = make_generalist(model)
    ring = with_ring(make_case("a"))
    generalist.look(ring, 1)
    generalist.prompt_annotation(ring, 2)
    (worth,) = generalist.weigh([ring], 2)
    assert not worth.heeded
    asked = len(model.prompted)
    mask = torch.from_numpy(ring.label[0]).long()
    generalist.prompt(ring, mask, 2, torch.zeros(ring.shape))
    assert len(model.prompted) == asked
    _, exists = generalist.probs("a", whole(ring.shape), 2)
    assert not exists.any()


def test_what_is_not_annotated_cannot_be_prompted_with_its_annotation(
    stub_model, make_case, make_generalist
):
    generalist = make_generalist(stub_model(2))
    with pytest.raises(ValueError, match="'u' is not annotated"):
        generalist.prompt_annotation(make_case("u", annotated=False), 2)
