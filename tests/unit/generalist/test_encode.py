import numpy as np
import pytest
import torch

from uncol.data.grid import Grid, Volume
from uncol.errors import NoLongerWantedError
from uncol.generalist.cache import EmbeddingCache
from uncol.generalist.encode import scan_encoder
from uncol.wanted import wanted_until


def test_no_further_slice_is_encoded_once_nobody_waits(stub_model, tmp_path):
    model = stub_model(2)
    array = np.random.default_rng(0).normal(size=(12, 12, 6)).astype(np.float32)
    encode = scan_encoder(
        model,
        EmbeddingCache(tmp_path),
        Volume(array, Grid(array.shape, np.eye(4))),
        content="a",
        modality="mr",
        device=torch.device("cpu"),
    )
    with wanted_until(lambda: len(model.encoded) == 2):
        encode(2, 0)
        encode(2, 1)
        with pytest.raises(NoLongerWantedError):
            encode(2, 2)
    assert len(model.encoded) == 2
    encode(2, 2)
    assert len(model.encoded) == 3
