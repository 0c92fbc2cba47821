import medim.models.sam_med3d as medim_sam
import pytest
import torch

from uncol.errors import WeightsError
from uncol.generalist.models import load_foundation_model
from uncol.generalist.models.protocol import Prompts

SIDE, PATCH, WIDTH, TOKENS = 32, 16, 24, 48  # token width is a multiple of 3 and of 8


@pytest.fixture(scope="module")
def build():
    original = medim_sam.build_sam3D_vit_b_ori

    def small():
        return original(
            image_size=SIDE,
            vit_patch_size=PATCH,
            encoder_embed_dim=WIDTH,
            encoder_depth=4,
            encoder_num_heads=2,
            encoder_global_attn_indexes=[0, 1, 2, 3],  # windows of 14 are slower than all at once
            prompt_embed_dim=TOKENS,
        )

    return small


@pytest.fixture(autouse=True)
def small_builder(monkeypatch, build):
    monkeypatch.setattr(medim_sam, "build_sam3D_vit_b_ori", build)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, build):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "sam_med3d_turbo.pth"
    torch.save({"model_state_dict": build().state_dict(), "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint, build):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(medim_sam, "build_sam3D_vit_b_ori", build)
        return load_foundation_model("sam_med3d", weights=checkpoint, weights_dir=checkpoint.parent)


def a_click(*places, kind=1.0):
    clicks = torch.tensor([[list(place) for place in places]], dtype=torch.float32)
    return Prompts(clicks=clicks, kinds=torch.full(clicks.shape[:2], kind))


def test_the_checkpoint_s_entry_is_in_the_network(model, checkpoint):
    state = torch.load(checkpoint, weights_only=True)["model_state_dict"]
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, state[name])
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_a_checkpoint_of_another_size_is_refused(tmp_path, build):
    state = build().state_dict()
    state["image_encoder.pos_embed"] = torch.zeros(1, 8, 8, 8, WIDTH)
    torch.save({"model_state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"wrong shape: image_encoder\.pos_embed"):
        load_foundation_model("sam_med3d", weights=tmp_path / "w.pth", weights_dir=tmp_path)


def test_garbage_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"garbage")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_foundation_model("sam_med3d", weights=tmp_path / "w.pth", weights_dir=tmp_path)


def test_encoding_gives_one_state_a_distilled_block(model):
    encoded = model.encode(torch.randn(1, 1, SIDE, SIDE, SIDE))
    assert encoded.image.shape == (1, TOKENS, 2, 2, 2)
    assert [state.shape for state in encoded.hidden] == [(1, WIDTH, 2, 2, 2)] * 3
    assert (model.side, model.token_channels) == (SIDE, TOKENS)


def what_the_encoder_gets(model, views, **arguments):
    got = []
    handle = model.network.image_encoder.register_forward_pre_hook(lambda _, x: got.append(x[0]))
    model.encode(views, **arguments)
    handle.remove()
    return got[0]


def test_a_view_is_z_scored_over_what_lies_above_its_minimum(model):
    view = torch.zeros(1, 1, SIDE, SIDE, SIDE)
    view[..., :16] = torch.rand(1, 1, SIDE, SIDE, 16) * 40 + 100
    got = what_the_encoder_gets(model, view)
    assert float(got[..., :16].mean()) == pytest.approx(0, abs=1e-3)
    assert float(got[..., :16].std()) == pytest.approx(1, abs=1e-3)
    assert float(got[..., 16:].max()) < -5  # padding stays far below


def test_raw_views_are_encoded_as_they_are(model):
    view = torch.rand(1, 1, SIDE, SIDE, SIDE) * 40
    assert torch.equal(what_the_encoder_gets(model, view, raw=True), view)


def test_a_constant_view_stays_finite(model):
    view = torch.full((1, 1, SIDE, SIDE, SIDE), 3.0)
    assert torch.isfinite(model.encode(view).image).all()


@pytest.fixture(scope="module")
def image(model):
    return model.encode(torch.randn(1, 1, SIDE, SIDE, SIDE)).image


def test_clicks_give_a_mask_and_tokens(model, image):
    prompted = model.prompt(image, a_click((3, 4, 5), (9, 9, 9)))
    assert prompted.logits.shape == (1, 8, 8, 8)  # the view at a quarter of its side
    assert prompted.tokens.shape == (1, TOKENS, 2, 2, 2)
    assert prompted.quality.shape == (1,)


def test_a_mask_of_the_step_before_is_taken_in(model, image):
    low = SIDE // 4
    clicks = a_click((3, 4, 5))
    first = model.prompt(image, clicks)
    zero = Prompts(clicks=clicks.clicks, kinds=clicks.kinds, memory=torch.zeros(1, 8, 8, 8))
    some = Prompts(
        clicks=clicks.clicks, kinds=clicks.kinds, memory=torch.randn(1, low, low, low) * 9
    )
    assert torch.allclose(first.logits, model.prompt(image, zero).logits)
    assert not torch.allclose(first.logits, model.prompt(image, some).logits)


def test_several_prompts_answer_as_they_do_alone(model, image):
    clicks = torch.tensor([[[3.0, 4, 5]], [[20.0, 9, 11]]])
    both = model.prompt(image, Prompts(clicks=clicks, kinds=torch.ones(2, 1)))
    for row in range(2):
        alone = model.prompt(image, Prompts(clicks=clicks[row : row + 1], kinds=torch.ones(1, 1)))
        assert torch.allclose(both.logits[row], alone.logits[0], atol=1e-4)


def test_a_click_is_embedded_in_array_order_as_in_sam_med3d_s_training(model, image, monkeypatch):
    # its dense positions swap the first two axes, its clicks do not; the weights know it so
    kept = []
    encoder = model.network.prompt_encoder
    forward = encoder.forward

    def listen(**arguments):
        kept.append(forward(**arguments)[0])
        return forward(**arguments)

    monkeypatch.setattr(encoder, "forward", listen)
    model.prompt(image, a_click((3, 10, 28)))
    unit = torch.tensor([[[3.5, 10.5, 28.5]]]) / SIDE
    expected = encoder.pe_layer._pe_encoding(unit)[0, 0] + encoder.point_embeddings[1].weight[0]
    assert torch.allclose(kept[0][0, 0], expected, atol=1e-4)


def test_background_clicks_differ_from_foreground_ones(model, image):
    first = model.prompt(image, a_click((3, 4, 5), kind=1.0))
    second = model.prompt(image, a_click((3, 4, 5), kind=0.0))
    assert not torch.allclose(first.logits, second.logits)


def test_boxes_are_refused(model, image):
    with pytest.raises(ValueError, match="takes clicks, not boxes"):
        model.prompt(image, Prompts(boxes=torch.zeros(1, 6)))
