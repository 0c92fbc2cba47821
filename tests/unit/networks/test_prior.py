import pytest
import torch

from uncol.networks.prior import PriorEncoder, TransformerBlock, sincos_positions

CPU = torch.device("cpu")


def encoder(*, patch=(4, 4, 2), depth=0, dim=24, neck=False):
    torch.manual_seed(0)
    return PriorEncoder(
        patch=patch,
        dim=dim,
        depth=depth,
        heads=2,
        head_dim=4,
        mlp_dim=8,
        out_channels=24,
        neck=neck,
    ).eval()


@pytest.mark.parametrize("token", [(1, 2, 1), (0, 2, 1), (1, 0, 2)])
def test_a_token_stands_where_its_patch_lies_in_the_image(token):
    network = encoder()
    image = torch.randn(1, 1, 8, 12, 6)
    changed = image.clone()
    i, j, k = token
    changed[0, 0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4, 2 * k : 2 * k + 2] += torch.randn(4, 4, 2)
    with torch.no_grad():
        gap = (network(image)[0] - network(changed)[0]).abs().amax(dim=1)[0]
    assert gap.nonzero().tolist() == [list(token)]
    assert gap.shape == (2, 3, 3)


def test_in_2d_too():
    network = encoder(patch=(4, 2), neck=False)
    image = torch.randn(1, 1, 8, 8)
    changed = image.clone()
    changed[0, 0, 4:8, 4:6] += torch.randn(4, 2)
    with torch.no_grad():
        gap = (network(image)[0] - network(changed)[0]).abs().amax(dim=1)[0]
    assert gap.nonzero().tolist() == [[1, 2]]


def test_attention_lets_every_token_know_every_other():
    network = encoder(depth=1)
    image = torch.randn(1, 1, 8, 8, 4)
    changed = image.clone()
    changed[0, 0, :4, :4, :2] += torch.randn(4, 4, 2)
    with torch.no_grad():
        assert ((network(image)[0] - network(changed)[0]).abs().amax(dim=1) > 0).all()


def test_every_block_s_output_is_kept():
    prior, hidden = encoder(depth=3)(torch.randn(2, 1, 8, 8, 4))
    assert len(hidden) == 3
    assert prior.shape == hidden[0].shape == (2, 24, 2, 2, 2)


def test_the_neck_changes_the_width():
    torch.manual_seed(0)
    network = encoder(patch=(4, 4), dim=16, depth=1, neck=True)
    prior, hidden = network(torch.randn(1, 1, 8, 8))
    assert prior.shape == (1, 24, 2, 2)
    assert hidden[0].shape == (1, 16, 2, 2)


def test_without_a_neck_widths_must_agree():
    with pytest.raises(ValueError, match=r"dim \(16\) must be 24"):
        encoder(dim=16)


@pytest.mark.parametrize("grid", [[4, 4], [3, 4, 5], [8, 8, 8]])
@pytest.mark.parametrize("dim", [16, 24, 64])
def test_no_two_tokens_share_a_position(grid, dim):
    places = sincos_positions(grid, dim, CPU)
    assert places.shape == (torch.tensor(grid).prod(), dim)
    assert places.unique(dim=0).shape == places.shape


def test_the_first_wave_is_the_plain_sine_and_cosine_of_the_index():
    places = sincos_positions([3, 1], 8, CPU).reshape(3, 1, 8)
    assert torch.allclose(places[:, 0, 0], torch.sin(torch.arange(3.0)))
    assert torch.allclose(places[:, 0, 2], torch.cos(torch.arange(3.0)))


def test_what_does_not_divide_evenly_stays_zero():
    assert (sincos_positions([3, 3, 3], 16, CPU)[:, 12:] == 0).all()


def test_attention_is_the_textbook_formula():
    torch.manual_seed(0)
    block = TransformerBlock(6, heads=2, head_dim=3, mlp_dim=4).eval()
    tokens = torch.randn(1, 5, 6)
    with torch.no_grad():
        query, key, value = (
            block.to_qkv(block.norm(tokens)).reshape(1, 5, 3, 2, 3).permute(2, 0, 3, 1, 4)
        )
        weights = (query @ key.transpose(-1, -2) / 3**0.5).softmax(-1)
        attended = tokens + block.to_out((weights @ value).transpose(1, 2).reshape(1, 5, 6))
        expected = attended + block.feed_forward(attended)
        assert torch.allclose(block(tokens), expected, atol=1e-5)
