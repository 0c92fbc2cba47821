"""Which arithmetic is fast on a device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def fast_arithmetic(device: torch.device) -> AbstractContextManager[object]:
    """Return the autocast that is fast here: bfloat16 on CUDA and on CPUs that compute in it.

    On two cores it makes a training step of `small3d` 2.3 times faster with AMX, 1.6 times with
    AVX-512 BF16; on older CPUs it would be emulated, and slower.
    """
    if device.type == "cuda" or (device.type == "cpu" and _computes_bfloat16()):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _computes_bfloat16() -> bool:
    probes = (
        getattr(torch.cpu, name, None)
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return any(probe() for probe in probes if probe is not None)
