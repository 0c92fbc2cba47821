import os

import pytest
import torch

from uncol.errors import StorageError
from uncol.generalist.cache import EmbeddingCache
from uncol.generalist.models.protocol import Encoded


class Counting:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        torch.manual_seed(0)
        levels = tuple(torch.randn(1, n, 2, 2) for n in range(1, 13))
        return Encoded(torch.randn(1, 4, 2, 2), levels)


def test_a_view_is_computed_once_and_every_state_keeps_its_place(tmp_path):
    compute = Counting()
    cache = EmbeddingCache(tmp_path / "cache")
    first = cache.get("k", compute)
    again = EmbeddingCache(tmp_path / "cache").get("k", compute)
    assert compute.calls == 1
    assert torch.equal(first.image, again.image)
    assert [level.shape[1] for level in again.hidden] == list(range(1, 13))  # 10 after 9
    assert all(torch.equal(a, b) for a, b in zip(first.hidden, again.hidden, strict=True))
    assert again.image.dtype == torch.float16


def test_other_keys_are_other_views(tmp_path):
    compute = Counting()
    cache = EmbeddingCache(tmp_path)
    cache.get("a", compute)
    cache.get("b", compute)
    assert compute.calls == 2


@pytest.mark.parametrize("kept", [0, 7, 0.5])
def test_a_file_cut_short_by_a_crash_is_computed_again(tmp_path, kept):
    compute = Counting()
    cache = EmbeddingCache(tmp_path)
    whole = cache.get("k", compute)
    path = next(tmp_path.glob("*.safetensors"))
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    assert torch.equal(cache.get("k", compute).image, whole.image)
    assert path.read_bytes() == content


def test_the_least_recently_used_views_go_first(tmp_path):
    cache = EmbeddingCache(tmp_path)
    for age, key in enumerate("dcba"):
        cache.get(key, Counting())
        os.utime(tmp_path / f"{key}.safetensors", (1000 + age, 1000 + age))
    cache.get("d", Counting())  # the oldest is used again
    size = (tmp_path / "a.safetensors").stat().st_size
    EmbeddingCache(tmp_path, limit_bytes=2 * size).trim()
    assert sorted(path.stem for path in tmp_path.glob("*.safetensors")) == ["a", "d"]


def test_within_the_limit_nothing_goes(tmp_path):
    cache = EmbeddingCache(tmp_path)
    cache.get("a", Counting())
    cache.trim()
    assert (tmp_path / "a.safetensors").exists()


def test_a_view_that_cannot_be_kept_is_a_storage_error(tmp_path):
    cache = EmbeddingCache(tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("a file where the folder was")
    with pytest.raises(StorageError, match="choose another model_dir"):
        cache.get("k", Counting())
