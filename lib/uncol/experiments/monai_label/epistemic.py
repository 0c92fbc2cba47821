"""MONAI Label's own epistemic scoring on our student, to be measured beside ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import SlidingWindowInferer
from monai.transforms import Activationsd
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.tasks.scoring.epistemic_v2 import EpistemicScoring
from torch import Tensor, nn

from uncol.data.preprocess import prepare
from uncol.data.scan import read_scan
from uncol.datastores.folder import StudiesFolder
from uncol.inference.predict import OVERLAP
from uncol.types import Array
from uncol.versions.loaded import LoadedStudent

DROPOUT = 0.2


class _WithDropout(nn.Module):
    """A student's mean logits, with dropout at the bottleneck and before each head in training."""

    def __init__(self, published: LoadedStudent) -> None:
        super().__init__()
        self.student = published.student
        self.student.attention.register_forward_hook(_drop_output)
        for head in self.student.heads:
            head.register_forward_pre_hook(_drop_input)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.student(image).mean_logits
        return logits


class _Infer(BasicInferTask):  # type: ignore[misc]
    """MONAI Label's inference, with the student's own preprocessing."""

    def __init__(self, published: LoadedStudent) -> None:
        super().__init__(
            path="",
            network=_WithDropout(published),
            type=InferType.SEGMENTATION,
            labels=published.manifest.labels,
            dimension=3,
            description="student with dropout",
            roi_size=published.manifest.window,
            train_mode=True,
            skip_writer=True,
            config={"device": str(published.device)},
        )
        self._manifest = published.manifest

    def pre_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:
        """Return the student's own preprocessing."""
        return [self._prepare]

    def post_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:
        """Return the softmax over the logits."""
        return [Activationsd(keys="pred", softmax=True)]

    def inferer(self, data: Any = None) -> SlidingWindowInferer:
        """Return MONAI Label's windows for large scans; a small scan is padded to one window.

        Its own way with small scans, a single pass, fails on sizes that are not multiples of the
        student's patch.
        """
        return SlidingWindowInferer(roi_size=self.roi_size, sw_batch_size=1, overlap=OVERLAP)

    def _prepare(self, data: Mapping[str, Any]) -> dict[str, Any]:
        scan = read_scan(data["image"])
        image = prepare(scan, self._manifest.space, self._manifest.modality).image
        return {**data, "image": image}


class EpistemicByMonaiLabel(EpistemicScoring):  # type: ignore[misc]
    """`EpistemicScoring` as it is, except that its samples are kept."""

    def __init__(self, published: LoadedStudent) -> None:
        """Make it for a student, with 5 samples, MONAI Label's default."""
        super().__init__(_Infer(published))
        self._samples: Array | None = None

    def score(self, scan: Path, folder: Path) -> tuple[float, Array, Array]:
        """Score one scan.

        Args:
            scan: its file.
            folder: a folder with this scan alone, which becomes the datastore.

        Returns:
            Its scalar, its entropy map `(I, J, K)`, and the mean probabilities `(C, I, J, K)` of
            its samples, both in the working frame.
        """
        store = StudiesFolder(str(folder), labels=self.infer_task.labels)
        logging.getLogger("monailabel").setLevel(logging.WARNING)
        name = store.list_images()[0]
        self({"device": self.infer_task.config()["device"], "max_workers": 1}, store)
        samples = self._samples
        if samples is None:
            raise RuntimeError(f"no samples for {scan}")
        scalar = float(store.get_image_info(name)["epistemic_entropy"])
        return scalar, super().entropy_volume(samples), samples.mean(axis=0)

    def entropy_volume(self, vol_input: Any) -> Any:
        """Keep the samples `(n, C, I, J, K)`, then do as MONAI Label does."""
        self._samples = torch.as_tensor(vol_input).detach().cpu().numpy().copy()
        return super().entropy_volume(vol_input)


def _drop_output(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return F.dropout3d(output, DROPOUT, training=module.training)


def _drop_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (F.dropout3d(inputs[0], DROPOUT, training=module.training), *inputs[1:])


def monai_label_strategy() -> Strategy:
    """Return MONAI Label's own strategy for these scores."""
    return Epistemic()
