"""One sliding-window pass: class probabilities and head disagreement together."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from uncol.networks.arithmetic import fast_arithmetic
from uncol.networks.student import StudentOutput
from uncol.types import Shape
from uncol.uncertainty.maps import head_disagreement
from uncol.wanted import check_wanted

logger = logging.getLogger(__name__)

OVERLAP = 0.25


@dataclass(frozen=True)
class Prediction:
    """A student's answer in the working frame.

    Attributes:
        probs: `(C, I, J, K)`, softmax of the mean head logits, averaged over windows.
        disagreement: `(I, J, K)`, mutual information of the heads, in [0, 1].
        computed_on: type of the device; `cpu` also if a GPU's memory did not suffice.
    """

    probs: Tensor
    disagreement: Tensor
    computed_on: str


@torch.inference_mode()
def predict(
    student: nn.Module, image: Tensor, window: Shape, *, device: torch.device
) -> Prediction:
    """Segment a preprocessed scan; on the CPU if the GPU's memory does not suffice.

    Args:
        student: the student, in evaluation mode, on `device`.
        image: `(1, I, J, K)` in the working frame.
        window: window size in voxels; a smaller scan is padded with its own minimum.
        device: where windows are computed; they are stitched on the CPU.

    Raises:
        NoLongerWantedError: nobody waits for it any more.
    """
    try:
        return _stitched(student, image, window, device)
    except torch.OutOfMemoryError:
        if device.type == "cpu":
            raise
        logger.warning("Not enough free GPU memory; this scan is segmented on the CPU")
        torch.cuda.empty_cache()
        return _stitched(copy.deepcopy(student).cpu(), image, window, torch.device("cpu"))


def _stitched(student: nn.Module, image: Tensor, window: Shape, device: torch.device) -> Prediction:
    def answer(windows: Tensor) -> Tensor:
        check_wanted()
        with fast_arithmetic(device):
            output: StudentOutput = student(windows)
        return probs_and_disagreement(output)

    stitched = sliding_window_inference(
        image[None],
        roi_size=window,
        sw_batch_size=1,
        predictor=answer,
        overlap=OVERLAP,
        mode="gaussian",
        cval=float(image.min()),
        sw_device=device,
        device=torch.device("cpu"),
    )
    return Prediction(stitched[0, :-1], stitched[0, -1], device.type)


def probs_and_disagreement(output: StudentOutput) -> Tensor:
    """Return `(B, C + 1, I, J, K)`: softmax of the mean logits, then head disagreement."""
    logits = output.logits.float()
    probs = logits.mean(dim=1).softmax(dim=1)
    disagreement = head_disagreement(logits.softmax(dim=2))
    return torch.cat([probs, disagreement[:, None]], dim=1)
