from functools import partial

import pytest
import segment_anything
import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

from uncol.errors import WeightsError
from uncol.generalist.models import load_foundation_model
from uncol.generalist.models.protocol import Prompts

SIDE, PATCH, WIDTH, DEPTH = 64, 16, 24, 2


def small_sam(checkpoint=None):
    """`_build_sam` of segment_anything with smaller numbers, classes and wiring the same."""
    assert checkpoint is None
    grid = SIDE // PATCH
    return Sam(
        image_encoder=ImageEncoderViT(
            depth=DEPTH,
            embed_dim=WIDTH,
            img_size=SIDE,
            mlp_ratio=4,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=2,
            patch_size=PATCH,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=[1],
            window_size=3,
            out_chans=256,
        ),
        prompt_encoder=PromptEncoder(256, (grid, grid), (SIDE, SIDE), mask_in_chans=16),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=1, embedding_dim=256, mlp_dim=32, num_heads=8),
            transformer_dim=256,
        ),
    )


@pytest.fixture(autouse=True)
def small_registry(monkeypatch):
    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_b", small_sam)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "medsam_vit_b.pth"
    torch.save(small_sam().state_dict(), path)
    return path


@pytest.fixture
def model(checkpoint, tmp_path):
    return load_foundation_model("medsam", weights=checkpoint, weights_dir=tmp_path)


def test_the_checkpoint_s_weights_are_in_the_network(model, checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, state[name])


def test_the_generalist_is_frozen(model):
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_the_fingerprint_changes_with_the_weights(model, tmp_path):
    torch.manual_seed(1)
    torch.save(small_sam().state_dict(), tmp_path / "other.pth")
    other = load_foundation_model("medsam", weights=tmp_path / "other.pth", weights_dir=tmp_path)
    assert other.fingerprint != model.fingerprint
    assert "min-max" in model.fingerprint  # preprocessing is part of it


def test_weights_in_the_folder_are_found_without_a_network(checkpoint, tmp_path):
    (tmp_path / "medsam_vit_b.pth").write_bytes(checkpoint.read_bytes())
    model = load_foundation_model("medsam", weights=None, weights_dir=tmp_path)
    assert model.name == "medsam"


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"do not fit Sam .*another network"):
        load_foundation_model("medsam", weights=tmp_path / "w.pth", weights_dir=tmp_path)


def test_a_truncated_checkpoint_is_refused(checkpoint, tmp_path):
    (tmp_path / "w.pth").write_bytes(checkpoint.read_bytes()[:20_000])
    with pytest.raises(WeightsError, match="cannot be read"):
        load_foundation_model("medsam", weights=tmp_path / "w.pth", weights_dir=tmp_path)


def test_no_generalist_is_none(tmp_path):
    assert load_foundation_model("none", weights=None, weights_dir=tmp_path) is None


def test_encoding_gives_one_state_a_distilled_block(model):
    encoded = model.encode(torch.randn(2, 1, SIDE, SIDE))
    assert encoded.image.shape == (2, 256, 4, 4)
    assert [state.shape for state in encoded.hidden] == [(2, WIDTH, 4, 4)] * 2
    assert model.hidden_channels == (WIDTH, WIDTH)


def test_the_states_are_the_outputs_of_the_blocks(model):
    views = torch.rand(1, 1, SIDE, SIDE)
    encoder = model.network.image_encoder
    with torch.no_grad():
        unit = (views - views.min()) / (views.max() - views.min())
        tokens = encoder.patch_embed(unit.expand(1, 3, -1, -1)) + encoder.pos_embed
        for block in encoder.blocks:
            tokens = block(tokens)
    last = model.encode(views).hidden[1]  # block 11, of these two the last one
    assert torch.allclose(last, tokens.permute(0, 3, 1, 2), atol=0.1, rtol=0.05)  # bfloat16


def test_each_view_is_scaled_on_its_own(model):
    view = torch.rand(1, 1, SIDE, SIDE)
    together = model.encode(torch.cat([view, view * 500 - 90])).image
    assert torch.allclose(together[0], together[1], atol=0.1)
    raw = model.encode(torch.cat([view, view * 500 - 90]), raw=True).image
    assert not torch.allclose(raw[0], raw[1], atol=0.1)


def test_a_constant_view_stays_finite(model):
    assert torch.isfinite(model.encode(torch.full((1, 1, SIDE, SIDE), 7.0)).image).all()


def test_each_prompt_has_a_mask_and_tokens(model):
    image = model.encode(torch.rand(1, 1, SIDE, SIDE)).image
    boxes = torch.tensor([[4.0, 8, 30, 40], [0, 0, 64, 64]])
    prompted = model.prompt(image, Prompts(boxes=boxes))
    assert prompted.logits.shape == (2, 16, 16)
    assert prompted.tokens.shape == (2, 256, 4, 4)
    assert prompted.quality.shape == (2,)
    alone = model.prompt(image, Prompts(boxes=boxes[1:]))
    assert torch.allclose(prompted.logits[1:], alone.logits, atol=1e-4)


@pytest.fixture
def sparse(model, monkeypatch):
    """The prompt encoder's answers, as they come."""
    kept = []
    forward = model.network.prompt_encoder.forward

    def listen(**arguments):
        kept.append(forward(**arguments)[0])
        return forward(**arguments)

    monkeypatch.setattr(model.network.prompt_encoder, "forward", listen)
    return kept


def test_a_click_is_embedded_where_its_token_lies(model, sparse):
    row, column = 1, 3
    click = [(index + 0.5) * PATCH - 0.5 for index in (row, column)]
    model.prompt(
        torch.zeros(1, 256, 4, 4),
        Prompts(clicks=torch.tensor([[click]]), kinds=torch.ones(1, 1)),
    )
    encoder = model.network.prompt_encoder
    place = sparse[0][0, 0] - encoder.point_embeddings[1].weight[0]
    assert torch.allclose(place, encoder.get_dense_pe()[0, :, row, column], atol=1e-4)


def test_a_box_s_corners_are_embedded_at_its_first_and_last_pixel(model, sparse):
    # the centres of pixels 8 and 55 along i, 24 and 39 along j
    model.prompt(torch.zeros(1, 256, 4, 4), Prompts(boxes=torch.tensor([[8.0, 24, 56, 40]])))
    encoder = model.network.prompt_encoder
    for corner, (i, j) in enumerate([(8, 24), (55, 39)]):
        place = sparse[0][0, corner] - encoder.point_embeddings[2 + corner].weight[0]
        unit = torch.tensor([[[(j + 0.5) / SIDE, (i + 0.5) / SIDE]]])  # SAM's x is our j
        assert torch.allclose(place, encoder.pe_layer._pe_encoding(unit)[0, 0], atol=1e-4)


def test_the_tokens_are_conditioned_by_the_prompt(model):
    image = model.encode(torch.rand(1, 1, SIDE, SIDE)).image
    boxes = torch.tensor([[0.0, 0, 16, 16], [40, 40, 60, 60]])
    first, second = model.prompt(image, Prompts(boxes=boxes)).tokens
    assert not torch.allclose(first, second, atol=1e-3)


def test_gradient_stops_at_the_generalist(model):
    views = torch.rand(1, 1, SIDE, SIDE, requires_grad=True)
    encoded = model.encode(views)
    prompted = model.prompt(encoded.image, Prompts(boxes=torch.tensor([[0.0, 0, 9, 9]])))
    assert not encoded.image.requires_grad
    assert not prompted.logits.requires_grad


def test_hooks_do_not_pile_up(model):
    for _ in range(2):
        image = model.encode(torch.rand(1, 1, SIDE, SIDE)).image
        model.prompt(image, Prompts(boxes=torch.tensor([[0.0, 0, 9, 9]])))
    assert not any(module._forward_hooks for module in model.network.modules())
