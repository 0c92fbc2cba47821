import pytest
import torch

from uncol.networks import arithmetic

PROBES = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")


def product(context):
    with context:
        return torch.randn(4, 4) @ torch.randn(4, 4)


@pytest.mark.parametrize("having", PROBES)
def test_a_cpu_that_computes_in_bfloat16_multiplies_in_it(monkeypatch, having):
    for probe in PROBES:
        monkeypatch.setattr(torch.cpu, probe, lambda probe=probe: probe == having, raising=False)
    assert product(arithmetic.fast_arithmetic(torch.device("cpu"))).dtype == torch.bfloat16


def test_a_cpu_without_it_stays_at_full_precision(monkeypatch):
    for probe in PROBES:
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    assert product(arithmetic.fast_arithmetic(torch.device("cpu"))).dtype == torch.float32


def test_an_older_torch_without_the_probes_stays_at_full_precision(monkeypatch):
    for probe in PROBES:
        monkeypatch.delattr(torch.cpu, probe, raising=False)
    assert product(arithmetic.fast_arithmetic(torch.device("cpu"))).dtype == torch.float32
