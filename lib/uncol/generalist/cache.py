"""Generalist embeddings on disk, under a content key, in a bounded space."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from uncol.generalist.models.protocol import Encoded
from uncol.storage.files import replacing
from uncol.storage.trim import trim

LIMIT_BYTES = 50 * 2**30


class EmbeddingCache:
    """Keeps encoded views; the least recently used go first when the space is full."""

    def __init__(self, folder: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        """Open a cache in a folder; created if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.limit_bytes = limit_bytes

    def get(self, key: str, compute: Callable[[], Encoded]) -> Encoded:
        """Return an encoded view (float16, CPU), computing and keeping it if it is not there.

        Args:
            key: names scan bytes, generalist weights, preprocessing and view.
            compute: makes the view.

        Raises:
            StorageError: a new view cannot be written.
        """
        path = self.folder / f"{key}.safetensors"
        try:
            state = safetensors.torch.load_file(path)
            os.utime(path)
        except (OSError, SafetensorError):  # absent, or cut short by a crash
            encoded = compute()
            state = {"image": encoded.image.half().cpu().contiguous()}
            for level, hidden in enumerate(encoded.hidden):
                state[f"hidden{level}"] = hidden.half().cpu().contiguous()
            with replacing(path, also=(SafetensorError,)) as partial:
                safetensors.torch.save_file(state, partial)
        levels = [state[f"hidden{level}"] for level in range(len(state) - 1)]
        return Encoded(state["image"], tuple(levels))

    def trim(self) -> None:
        """Delete the least recently used views until the folder fits its limit."""
        trim(self.folder, self.limit_bytes)
