from dataclasses import replace

import pytest
import torch

from uncol.method import distill, losses
from uncol.method.fusion import PseudoLabel
from uncol.method.mixing import copy_paste_mask
from uncol.method.stages import (
    Crops,
    Knowledge,
    finetune,
    mix_crops,
    pretrain,
    roll,
    with_pseudo_label,
)
from uncol.networks.ema import make_specialist
from uncol.networks.student import Student

BATCH, SIDE, TOKENS = 2, 8, (2, 2, 2)


@pytest.fixture
def student(tiny_preset):
    torch.manual_seed(0)
    return Student(tiny_preset().spec, 3).train()


@pytest.fixture
def adapters(tiny_preset):
    torch.manual_seed(1)
    spec = tiny_preset().spec
    return distill.Adapters(
        hidden_channels=(5, 5),
        token_channels=4,
        foreground=2,
        student_dim=spec.prior_dim,
        student_width=spec.channels[-1],
    )


def a_mask(seed=0):
    return copy_paste_mask(BATCH, (SIDE,) * 3, generator=torch.Generator().manual_seed(seed))


def crops(seed=0, *, known=True, counts=True):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    knowledge = None
    if known:
        hidden = tuple(draw(BATCH, 5, *TOKENS) for _ in range(2))
        knowledge = Knowledge(hidden, draw(BATCH, 8, *TOKENS), torch.ones(BATCH, 1, *TOKENS))
    label = torch.randint(3, (BATCH, SIDE, SIDE, SIDE), generator=generator)
    return Crops(
        draw(BATCH, 1, SIDE, SIDE, SIDE), label, torch.full(label.shape, counts), knowledge
    )


def test_rolling_gives_each_crop_another_one_with_all_that_belongs_to_it():
    batch = crops()
    batch.knowledge.valid[1] = 0
    rolled = roll(batch)
    assert rolled.knowledge.valid.amax(dim=(1, 2, 3, 4)).tolist() == [0, 1]
    assert torch.equal(rolled.image[1], batch.image[0])
    assert torch.equal(rolled.label[1], batch.label[0])
    assert torch.equal(rolled.knowledge.hidden[1][1], batch.knowledge.hidden[1][0])
    assert torch.equal(rolled.knowledge.semantic[1], batch.knowledge.semantic[0])
    assert roll(crops(known=False)).knowledge is None


def test_image_label_and_counts_are_mixed_by_the_same_mask():
    first, second = crops(1), crops(2, counts=False)
    mask = a_mask()
    mixed = mix_crops(mask, first, second)
    outside = mask[:, 0] == 1
    assert torch.equal(mixed.counts, outside)
    assert torch.equal(mixed.label[outside], first.label[outside])
    assert torch.equal(mixed.image[:, 0][~outside], second.image[:, 0][~outside])


def test_a_token_on_the_block_s_edge_belongs_to_neither_generalist_view():
    mask = torch.ones(BATCH, 1, SIDE, SIDE, SIDE)
    mask[:, :, 2:8] = 0  # tokens are 4 voxels long: the first one is half outside
    first, second = crops(1), crops(2)
    known = mix_crops(mask, first, second).knowledge
    assert known.valid[:, 0, 0].max() == 0
    assert known.valid[:, 0, 1].min() == 1
    assert torch.equal(known.hidden[0][:, :, 1], second.knowledge.hidden[0][:, :, 1])


def test_a_token_outside_the_block_keeps_the_outer_view():
    mask = torch.ones(BATCH, 1, SIDE, SIDE, SIDE)
    mask[:, :, 4:] = 0
    first, second = crops(1), crops(2)
    known = mix_crops(mask, first, second).knowledge
    assert torch.equal(known.hidden[1][:, :, 0], first.knowledge.hidden[1][:, :, 0])
    assert torch.equal(known.semantic[:, :, 1], second.knowledge.semantic[:, :, 1])
    assert known.valid.min() == 1


def test_without_one_side_s_knowledge_there_is_none():
    assert mix_crops(a_mask(), crops(1), crops(2, known=False)).knowledge is None


def test_a_pseudo_label_counts_where_it_is_trusted():
    label = torch.randint(3, (BATCH, SIDE, SIDE, SIDE))
    trusted = torch.rand(label.shape) > 0.5
    made = with_pseudo_label(crops(), PseudoLabel(label, trusted, trusted, trusted))
    assert torch.equal(made.label, label)
    assert torch.equal(made.counts, trusted)


def test_the_first_stage_is_its_parts_weighed(student, adapters):
    made = pretrain(student, adapters, crops(), a_mask(), weight=0.3)
    parts = made.parts
    expected = parts["supervised"] + 0.3 * (parts["semantic"] + parts["visual"])
    assert float(made.total.detach()) == pytest.approx(expected, rel=1e-5)
    assert min(parts.values()) > 0


def test_the_first_stage_s_supervision_is_the_four_heads_on_the_mix(student):
    batch, mask = crops(known=False), a_mask()
    mixed = mix_crops(mask, batch, roll(batch))
    expected = losses.four_heads(student(mixed.image).logits, mixed.label, mixed.counts)
    made = pretrain(student, None, batch, mask, weight=0.3)
    assert torch.allclose(made.total, expected, atol=1e-5)
    assert made.parts["semantic"] == made.parts["visual"] == 0


def test_the_first_stage_feeds_the_generalist_s_feature_to_the_decoder(student, adapters):
    batch, mask = crops(), a_mask()
    first = pretrain(student, adapters, batch, mask, weight=0.0).parts["supervised"]
    torch.nn.init.normal_(adapters.semantic.weight, std=3)
    assert pretrain(student, adapters, batch, mask, weight=0.0).parts[
        "supervised"
    ] != pytest.approx(first, abs=1e-6)


def gradients(*networks):
    return [
        max(
            (float(p.grad.abs().max()) for p in net.parameters() if p.grad is not None),
            default=None,
        )
        for net in networks
    ]


def test_the_first_stage_s_gradient_reaches_student_and_both_projections(student, adapters):
    specialist = make_specialist(student)
    batch = crops()
    pretrain(student, adapters, batch, a_mask(), weight=0.1).total.backward()
    assert min(gradients(student, adapters.visual, adapters.semantic)) > 0
    assert gradients(specialist) == [None]
    assert not batch.knowledge.semantic.requires_grad


def test_the_semantic_term_pulls_both_sides(student, adapters):
    # section 2.2: F_post is not detached in L_sem
    made = pretrain(student, adapters, crops(counts=False), a_mask(), weight=1.0)
    made.total.backward()
    assert made.parts["supervised"] == pytest.approx(0, abs=1e-6)
    assert float(adapters.semantic.weight.grad.abs().max()) > 0
    assert float(student.prior.embed[1].weight.grad.abs().max()) > 0


def pseudo(batch, trusted=True):
    where = torch.full(batch.label.shape, trusted)
    return with_pseudo_label(batch, PseudoLabel(batch.label, where, where, where))


def test_the_second_stage_is_its_parts_weighed(student, adapters):
    made = finetune(student, adapters, crops(1), pseudo(crops(2)), a_mask())
    parts = made.parts
    expected = 0.5 * (parts["annotated"] + 0.5 * parts["pseudo"]) + 0.1 * parts["visual"]
    assert float(made.total.detach()) == pytest.approx(expected, rel=1e-5)
    assert min(parts.values()) > 0


def test_the_second_stage_s_terms_cover_the_parts_that_section_2_5_gives_them(student):
    labeled, unlabeled, mask = crops(1, known=False), pseudo(crops(2, known=False)), a_mask()
    x_l = mix_crops(mask, labeled, unlabeled)
    x_u = mix_crops(mask, roll(unlabeled), roll(labeled))
    o_l, o_u = student(torch.cat([x_l.image, x_u.image])).mean_logits.chunk(2)
    outside = mask[:, 0] == 1
    expected = 0.5 * (
        losses.dice_ce(o_l, labeled.label, outside)
        + 0.5 * losses.dice_ce(o_l, unlabeled.label, ~outside)
        + 0.5 * losses.dice_ce(o_u, roll(unlabeled).label, outside)
        + losses.dice_ce(o_u, roll(labeled).label, ~outside)
    )
    made = finetune(student, None, labeled, unlabeled, mask)
    assert torch.allclose(made.total, expected, atol=1e-5)


def test_crops_that_are_not_mixed_keep_their_own_term(student):
    labeled, unlabeled = crops(1, known=False), pseudo(crops(2, known=False))
    fewer = Crops(unlabeled.image[:1], unlabeled.label[:1], unlabeled.counts[:1], None)
    logits = student(torch.cat([labeled.image, fewer.image])).mean_logits
    everywhere = torch.ones_like(labeled.counts)
    expected = 0.5 * (
        losses.dice_ce(logits[:BATCH], labeled.label, everywhere)
        + 0.2 * losses.dice_ce(logits[BATCH:], fewer.label, everywhere[:1])
    )
    made = finetune(student, None, labeled, fewer, None, pseudo_weight=0.2)
    assert torch.allclose(made.total, expected, atol=1e-5)


def test_an_untrusted_pseudo_label_teaches_nothing(student):
    labeled, mask = crops(1, known=False), a_mask()
    first = finetune(student, None, labeled, pseudo(crops(2, known=False), False), mask)
    other = crops(2, known=False)
    other = replace(other, label=(other.label + 1) % 3)
    second = finetune(student, None, labeled, pseudo(other, False), mask)
    assert first.parts["pseudo"] == pytest.approx(0, abs=1e-6)
    assert torch.allclose(first.total, second.total)


def test_the_second_stage_s_gradient_reaches_the_student_and_not_the_generalists(student, adapters):
    specialist = make_specialist(student)
    labeled, unlabeled = crops(1), pseudo(crops(2))
    finetune(student, adapters, labeled, unlabeled, a_mask()).total.backward()
    assert min(gradients(student, adapters.visual)) > 0
    assert gradients(specialist, adapters.semantic) == [None, None]  # no semantic term in stage 2
    assert not any(h.requires_grad for h in unlabeled.knowledge.hidden)


def test_nothing_annotated_and_nothing_trusted_stays_finite(student):
    labeled = crops(1, known=False, counts=False)
    made = finetune(student, None, labeled, pseudo(crops(2, known=False), False), a_mask())
    made.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


def test_without_tokens_the_decoder_consumes_its_own_prior_and_states_still_teach(
    student, adapters
):
    batch = crops()
    bare = replace(batch, knowledge=replace(batch.knowledge, semantic=None))
    found = pretrain(student, adapters, bare, a_mask(), weight=1.0)
    alone = pretrain(student, None, batch, a_mask(), weight=1.0)
    assert found.parts["semantic"] == 0
    assert found.parts["visual"] > 0
    assert found.parts["supervised"] == pytest.approx(alone.parts["supervised"])


def test_visual_distillation_can_be_left_out_of_both_stages(student, adapters):
    first = pretrain(student, adapters, crops(), a_mask(), weight=1.0, visual_too=False)
    assert first.parts["visual"] == 0
    assert first.parts["semantic"] > 0
    second = finetune(student, adapters, crops(1), crops(2), a_mask(), visual_too=False)
    assert second.parts["visual"] == 0
