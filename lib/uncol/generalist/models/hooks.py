"""What all SAM-shaped networks share: kept hidden states, and the prompt decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from uncol.generalist.models.protocol import Prompted


@contextmanager
def kept_outputs(modules: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """Keep the outputs of modules inside somebody else's network, in the order of `modules`.

    Args:
        modules: the modules; each runs once.

    Yields:
        A list with a place for each module, filled while the network runs.
    """
    outputs: list[Any] = [None] * len(modules)
    handles = [
        module.register_forward_hook(_keeper(outputs, place))
        for place, module in enumerate(modules)
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def decode(network: Any, image: Tensor, sparse: Tensor, dense: Tensor) -> Prompted:
    """Answer n prompts with SAM's mask decoder.

    Args:
        network: with `prompt_encoder` and `mask_decoder`.
        image: `(1 or n, D, *grid)`, the encoded view, as the decoder wants it.
        sparse: the encoded boxes or clicks, n of them.
        dense: the encoded masks.
    """
    decoder = network.mask_decoder
    with kept_outputs([decoder.transformer]) as outputs:
        logits, quality = decoder(
            image_embeddings=image,
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    tokens = outputs[0][1].transpose(1, 2)  # (n, N, D) -> (n, D, N)
    return Prompted(logits[:, 0], tokens.reshape(-1, *image.shape[1:]), quality.flatten())


def _keeper(outputs: list[Any], place: int) -> Callable[[nn.Module, Any, Any], None]:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs[place] = output

    return keep
