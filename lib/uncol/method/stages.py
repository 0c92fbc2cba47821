"""The two stages: a batch in, losses out (docs/method.md sections 2.2 and 2.5)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from uncol.method import distill, losses
from uncol.method.fusion import PseudoLabel
from uncol.method.mixing import mix, pool_mask
from uncol.networks.student import StudentOutput

PSEUDO_WEIGHT = 0.5  # u_weight
VISUAL_WEIGHT = 0.1  # constant in stage 2


@dataclass(frozen=True)
class Knowledge:
    """What the generalist says about a batch of crops, on the student's token grid.

    Attributes:
        hidden: its states, `(B, width, *tokens)` each.
        semantic: its prompt-conditioned tokens, `(B, D * (C - 1), *tokens)`; stage 1 only.
        valid: `(B, 1, *tokens)` in [0, 1], where it was computed.
    """

    hidden: tuple[Tensor, ...]
    semantic: Tensor | None
    valid: Tensor


@dataclass(frozen=True)
class Crops:
    """A batch of crops.

    Attributes:
        image: `(B, 1, I, J, K)`.
        label: `(B, I, J, K)` class indices; the annotation of annotated crops.
        counts: `(B, I, J, K)` bool, voxels whose label counts (annotated, or trusted).
        knowledge: the generalist's view, or None without one.
    """

    image: Tensor
    label: Tensor
    counts: Tensor
    knowledge: Knowledge | None


@dataclass(frozen=True)
class Losses:
    """A loss with its parts.

    Attributes:
        total: what is minimized.
        parts: detached terms by name, for the log.
    """

    total: Tensor
    parts: dict[str, float] = field(default_factory=dict)


def roll(crops: Crops) -> Crops:
    """Return the batch moved by one, so that each crop meets another one."""
    known = crops.knowledge
    if known is not None:
        known = Knowledge(
            tuple(h.roll(1, 0) for h in known.hidden),
            None if known.semantic is None else known.semantic.roll(1, 0),
            known.valid.roll(1, 0),
        )
    return Crops(crops.image.roll(1, 0), crops.label.roll(1, 0), crops.counts.roll(1, 0), known)


def with_pseudo_label(crops: Crops, pseudo: PseudoLabel) -> Crops:
    """Return unlabeled crops with the fused pseudo-label and its trust mask."""
    return Crops(crops.image, pseudo.label, pseudo.trusted, crops.knowledge)


def mix_crops(mask: Tensor, outside: Crops, inside: Crops) -> Crops:
    """Copy-paste two batches. Generalist states are mixed like the images, not computed again.

    A pass of the frozen encoder for every mixed crop would cost a thousand times the rest of the
    step on a CPU; mixing the cached states of the unmixed scans costs nothing.
    """
    return Crops(
        mix(mask, outside.image, inside.image),
        mix(mask, outside.label, inside.label),
        mix(mask, outside.counts, inside.counts),
        _mix_knowledge(mask, outside.knowledge, inside.knowledge),
    )


def pretrain(
    student: nn.Module,
    adapters: distill.Adapters | None,
    crops: Crops,
    mask: Tensor | None,
    *,
    weight: float,
    visual_too: bool = True,
    softmax_twice: bool = False,
) -> Losses:
    """Stage 1: L = L_seg + lambda(t) (L_sem + L_vis) on mixed annotated crops.

    Args:
        student: the student.
        adapters: projections from the generalist, or None without a generalist.
        crops: annotated crops; each is mixed with its neighbour in the batch. Without tokens in
            their knowledge there is no semantic distillation.
        mask: copy-paste mask `(B, 1, I, J, K)`, or None to leave crops as they are.
        weight: lambda(t).
        visual_too: whether there is visual distillation.
        softmax_twice: see `losses.dice`.
    """
    mixed = crops if mask is None else mix_crops(mask, crops, roll(crops))
    known = mixed.knowledge
    if adapters is not None and known is not None and known.semantic is not None:
        target = adapters.semantic(known.semantic)
        output = _student_with(student, mixed.image, target, known.valid)
        semantic = distill.masked_mse(output.prior, target, known.valid)
    else:
        output = student(mixed.image)
        semantic = output.prior.new_zeros(())
    visual = output.prior.new_zeros(())
    if adapters is not None and known is not None and visual_too:
        visual = _visual(adapters, known, output)
    supervised = losses.four_heads(
        output.logits, mixed.label, mixed.counts, softmax_twice=softmax_twice
    )
    total = supervised + weight * (semantic + visual)
    return _losses(total, supervised=supervised, semantic=semantic, visual=visual)


def finetune(
    student: nn.Module,
    adapters: distill.Adapters | None,
    labeled: Crops,
    unlabeled: Crops,
    mask: Tensor | None,
    *,
    pseudo_weight: float = PSEUDO_WEIGHT,
    visual_too: bool = True,
) -> Losses:
    """Stage 2: L = L_l + L_u + 0.1 (L_vis(x_l) + L_vis(x_u)).

    x_l = M x_a + (1 - M) u_a and x_u = M u_b + (1 - M) x_b; a term for the annotated part with
    weight 1 and one for the trusted pseudo-labeled part with weight 0.5, each halved. Without
    mixing x_l = x_a and x_u = u_a.

    Args:
        student: the student.
        adapters: projections from the generalist, or None without a generalist.
        labeled: annotated crops x_a; x_b is the same batch moved by one.
        unlabeled: crops u_a with pseudo-labels, as many as `labeled` if mixed; u_b likewise.
        mask: copy-paste mask `(B, 1, I, J, K)`, or None to leave crops as they are.
        pseudo_weight: weight of the pseudo-labeled part.
        visual_too: whether there is visual distillation.
    """
    first, second = labeled, unlabeled
    if mask is not None:
        first = mix_crops(mask, labeled, unlabeled)
        second = mix_crops(mask, roll(unlabeled), roll(labeled))
    output = student(torch.cat([first.image, second.image]))
    logits, others = output.mean_logits[: len(first.image)], output.mean_logits[len(first.image) :]
    if mask is None:
        annotated = losses.dice_ce(logits, first.label, first.counts)
        pseudo = losses.dice_ce(others, second.label, second.counts)
    else:
        inside, outside = mask[:, 0] == 0, mask[:, 0] == 1
        annotated = losses.dice_ce(logits, first.label, first.counts & outside)
        annotated = annotated + losses.dice_ce(others, second.label, second.counts & inside)
        pseudo = losses.dice_ce(logits, first.label, first.counts & inside)
        pseudo = pseudo + losses.dice_ce(others, second.label, second.counts & outside)
    visual = output.prior.new_zeros(())
    if (
        adapters is not None
        and first.knowledge is not None
        and second.knowledge is not None
        and visual_too
    ):
        known = _join(first.knowledge, second.knowledge)
        visual = 2 * _visual(adapters, known, output)  # the sum of both halves' means
    supervised = 0.5 * (annotated + pseudo_weight * pseudo)
    total = supervised + VISUAL_WEIGHT * visual
    return _losses(total, annotated=annotated, pseudo=pseudo, visual=visual)


def _student_with(
    student: nn.Module, image: Tensor, target: Tensor, valid: Tensor
) -> StudentOutput:
    """Run the student with the generalist's feature where there is one, its own prior elsewhere."""
    output: StudentOutput = student(
        image, knowledge=lambda prior: distill.knowledge(target, prior, valid)
    )
    return output


def _visual(adapters: distill.Adapters, known: Knowledge, output: StudentOutput) -> Tensor:
    blocks = distill.student_blocks(len(known.hidden), len(output.hidden))
    projected = [adapters.project_hidden(h) for h in known.hidden[: len(blocks)]]
    return distill.visual(projected, [output.hidden[b] for b in blocks], known.valid)


def _mix_knowledge(
    mask: Tensor, outside: Knowledge | None, inside: Knowledge | None
) -> Knowledge | None:
    if outside is None or inside is None:
        return None
    size_i, size_j, size_k = outside.valid.shape[2:]
    share = pool_mask(mask, (size_i, size_j, size_k))
    # a token that lies on the block's edge belongs to neither source
    pure = ((share == 0) | (share == 1)).to(share.dtype)
    keep = share > 0.5
    semantic = None
    if outside.semantic is not None and inside.semantic is not None:
        semantic = torch.where(keep, outside.semantic, inside.semantic)
    return Knowledge(
        tuple(torch.where(keep, o, i) for o, i in zip(outside.hidden, inside.hidden, strict=True)),
        semantic,
        torch.where(keep, outside.valid, inside.valid) * pure,
    )


def _join(first: Knowledge, second: Knowledge) -> Knowledge:
    hidden = tuple(torch.cat(pair) for pair in zip(first.hidden, second.hidden, strict=True))
    return Knowledge(hidden, None, torch.cat([first.valid, second.valid]))


def _losses(total: Tensor, **parts: Tensor) -> Losses:
    return Losses(total, {name: float(part.detach()) for name, part in parts.items()})
