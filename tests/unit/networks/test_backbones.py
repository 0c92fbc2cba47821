import pytest
import torch

from uncol.networks.backbones import UNet, VNet


def test_the_u_net_halves_each_side_at_each_level():
    levels = UNet((4, 8, 16)).encode(torch.randn(1, 1, 16, 8))
    assert [tuple(level.shape[1:]) for level in levels] == [(4, 16, 8), (8, 8, 4), (16, 4, 2)]


def test_the_v_net_follows_its_strides():
    network = VNet((4, 8, 16), ((2, 2, 1), (2, 1, 2)))
    levels = network.encode(torch.randn(1, 1, 8, 8, 4))
    assert [tuple(level.shape[2:]) for level in levels] == [(8, 8, 4), (4, 4, 4), (2, 4, 2)]
    assert network.decode(levels[-1], levels).shape == (1, 4, 8, 8, 4)


def test_the_v_net_needs_a_stride_between_levels():
    with pytest.raises(ValueError, match="3 levels need 2 strides"):
        VNet((4, 8, 16), ((2, 2, 2),))


def test_the_v_net_adds_its_skips():
    network = VNet((4, 8), ((2, 2, 2),)).eval()
    levels = network.encode(torch.randn(1, 1, 8, 8, 8))
    fine = torch.randn(1, 4, 8, 8, 8)
    with torch.no_grad():
        gap = network.decode(levels[-1], [fine, levels[1]]) - network.decode(
            levels[-1], [torch.zeros_like(fine), levels[1]]
        )
    assert torch.allclose(gap, fine, atol=1e-5)


def test_the_paper_s_depth_takes_its_own_dropout_and_convolutions():
    u_net = UNet((2, 2, 2, 2, 2))
    assert [block[3].p for block in u_net.encoder] == [0.05, 0.1, 0.2, 0.3, 0.5]
    assert all(block[3].p == 0 for block in u_net.decoder)
    v_net = VNet((2, 2, 2, 2, 2), ((2, 2, 2),) * 4)
    assert [len(block) for block in v_net.encoder] == [1, 2, 3, 3, 3]
    assert [len(block) for block in v_net.decoder] == [2, 3, 3]  # the finest one is in the heads
