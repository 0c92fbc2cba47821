import torch

from uncol.networks import arithmetic


def product(context):
    with context:
        return torch.randn(4, 4) @ torch.randn(4, 4)


def test_a_cpu_with_tiles_multiplies_in_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert product(arithmetic.fast_arithmetic(torch.device("cpu"))).dtype == torch.bfloat16


def test_a_cpu_without_them_stays_at_full_precision(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert product(arithmetic.fast_arithmetic(torch.device("cpu"))).dtype == torch.float32


def test_an_older_torch_without_the_probe_stays_at_full_precision(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert product(arithmetic.fast_arithmetic(torch.device("cpu"))).dtype == torch.float32
