from dataclasses import replace

import numpy as np
import pytest
import torch

from uncol.data.labels import IGNORE_VALUE
from uncol.training.batches import CropSource, stack_knowledge

CROP, TOKENS = (8, 8, 8), (2, 2, 2)


def source(cases, *, generalist=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return CropSource(cases, CROP, TOKENS, generalist=generalist, generator=generator)


def test_a_batch_has_an_image_a_label_and_a_place_a_crop(make_case):
    drawn = source([make_case()]).draw(3, semantic=False)
    assert drawn.crops.image.shape == drawn.clean.shape == (3, 1, *CROP)
    assert drawn.crops.label.shape == drawn.crops.counts.shape == (3, *CROP)
    assert len(drawn.places) == len(drawn.names) == 3
    assert drawn.crops.knowledge is None


def test_every_case_is_drawn_once_before_any_is_drawn_again(make_case):
    cases = [make_case(name) for name in "abcde"]
    drawn = source(cases).draw(10, semantic=False)
    assert sorted(drawn.names[:5]) == sorted(drawn.names[5:]) == list("abcde")


def test_a_seed_fixes_everything(make_case):
    cases = [make_case(name) for name in "abc"]
    first, second, other = (source(cases, seed=s).draw(4, semantic=False) for s in (1, 1, 2))
    assert first.names == second.names
    assert torch.equal(first.crops.image, second.crops.image)
    assert not torch.equal(first.crops.image, other.crops.image)


def test_the_label_lies_where_the_image_does(make_case):
    drawn = source([make_case()]).draw(20, semantic=False)
    inside = drawn.crops.label == 1
    assert inside.any()
    # the phantom is 1.5 inside and -0.5 outside; only voxels on its edge are in between
    assert drawn.clean[:, 0][inside].mean() > 1
    assert drawn.clean[:, 0][~inside].mean() < 0


def test_annotated_crops_are_often_centred_on_foreground(make_case):
    far = np.zeros((1, 32, 32, 32), dtype=np.uint8)
    far[0, 1:4, 1:4, 1:4] = 1
    case = replace(
        make_case(shape=(32, 32, 32)), label=far, centers=(torch.from_numpy(np.argwhere(far[0])),)
    )
    hits = (source([case]).draw(60, semantic=False).crops.label == 1).flatten(1).any(dim=1)
    assert 0.5 < float(hits.float().mean()) < 0.95


def test_a_rare_label_is_centred_on_as_often_as_a_large_one(make_case):
    label = np.ones((1, 16, 16, 16), dtype=np.uint8)
    label[0, 2, 2, 2] = 2
    centers = tuple(torch.from_numpy(np.argwhere(label[0] == value)) for value in (1, 2))
    case = replace(make_case(), label=label, centers=centers)
    found = (source([case]).draw(60, semantic=False).crops.label == 2).flatten(1).any(dim=1)
    assert float(found.float().mean()) > 0.3


def test_an_unlabeled_crop_counts_nowhere(make_case):
    drawn = source([make_case(annotated=False)]).draw(2, semantic=False)
    assert not drawn.crops.counts.any()


def test_voxels_nobody_annotated_do_not_count(make_case):
    case = make_case()
    partial = case.label.copy()
    partial[0, :8] = IGNORE_VALUE
    drawn = source([replace(case, label=partial)]).draw(8, semantic=False)
    assert drawn.crops.counts.any()
    assert not drawn.crops.counts.all()
    assert drawn.crops.label.max() <= 1


def test_knowledge_comes_along_and_semantic_tokens_only_when_asked(
    make_case, stub_model, make_generalist
):
    generalist, case = make_generalist(stub_model(3)), make_case()
    generalist.look(case, 1)
    generalist.prompt(case, torch.from_numpy(case.label[0]).long(), 2, None)
    drawer = source([case], generalist=generalist)
    known = drawer.draw(3, semantic=True).crops.knowledge
    assert known.semantic.shape == (3, 6, *TOKENS)
    assert [level.shape for level in known.hidden] == [(3, 6, *TOKENS)] * 2
    assert known.valid.shape == (3, 1, *TOKENS)
    assert drawer.draw(3, semantic=False).crops.knowledge.semantic is None


def test_nothing_stacks_to_none():
    assert stack_knowledge([]) is None


def test_outside_the_scan_a_crop_shows_the_scan_s_minimum(make_case):
    case = make_case(shape=(4, 16, 16))  # in a crop of 8 there are 2 voxels on each side of it
    assert case.low < -0.5
    drawn = source([replace(case, label=None, centers=())]).draw(8, semantic=False)
    outside = torch.cat([drawn.clean[:, 0, 0], drawn.clean[:, 0, -1]])
    assert float((outside - case.low).abs().median()) < 1e-3


def test_what_is_said_of_upright_views_lies_where_the_crops_show_it(make_case):
    case = make_case(shape=(24, 24, 24))
    drawn = source([case]).draw(20, semantic=False, upright=True)
    turned = [not torch.equal(place.matrix, torch.eye(3)) for place in drawn.places]
    assert any(turned)
    said = torch.stack([view.sample(case.label, nearest=True)[0] for view in drawn.views])
    probs, seen = drawn.in_crops(torch.stack([1 - said, said], dim=1).float())
    assert torch.allclose(probs.sum(dim=1), torch.ones(()), atol=1e-4)
    assert 0.6 < float(seen.float().mean()) < 1
    assert torch.equal(probs.movedim(1, -1)[~seen], torch.full((int((~seen).sum()), 2), 0.5))
    found, true = (probs.argmax(dim=1) == 1) & seen, (drawn.crops.label == 1) & seen
    assert int(true.sum()) > 100
    assert 2 * int((found & true).sum()) / int(found.sum() + true.sum()) > 0.9
    # the specialist sees the views, the student the crops
    brightness = drawn.clean[:, 0][said == 1].mean() - drawn.clean[:, 0][said == 0].mean()
    assert brightness > 1.5


def test_what_is_said_of_the_crops_themselves_stays_as_it_is(make_case):
    drawn = source([make_case()]).draw(3, semantic=False)
    said = torch.rand(3, 2, *CROP)
    probs, seen = drawn.in_crops(said)
    assert torch.equal(probs, said)
    assert seen.all()


def test_a_source_without_cases_cannot_draw():
    with pytest.raises(IndexError):
        source([]).draw(1, semantic=False)
