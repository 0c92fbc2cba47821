"""MONAI Label's own training, as its radiology app sets it up, to be measured beside ours."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    NormalizeIntensityd,
    RandCropByPosNegLabeld,
    SelectItemsd,
    SpatialPadd,
)
from monailabel.tasks.train.basic_train import BasicTrainTask
from torch import nn

from uncol.data.cases import Case
from uncol.data.scan import read_scan
from uncol.types import Array

CROP = (32, 48, 32)
CROPS = 4  # per scan and epoch
RATE = 1e-3
EPOCHS = 30
VAL_SPLIT = 0.2  # BasicTrainTask's default


class _Task(BasicTrainTask):  # type: ignore[misc]
    """`BasicTrainTask` with a plain UNet."""

    def __init__(self, folder: Path, classes: int) -> None:
        super().__init__(
            str(folder),
            config={"max_epochs": EPOCHS, "train_batch_size": 1, "val_batch_size": 1},
            amp=False,
            publish_path=str(folder / "published.pt"),
            load_path=str(folder / "published.pt"),
        )
        self.classes = classes

    def network(self, context: Any) -> nn.Module:
        return _unet(self.classes)

    def optimizer(self, context: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(context.network.parameters(), RATE)

    def loss_function(self, context: Any) -> nn.Module:
        loss: nn.Module = DiceCELoss(to_onehot_y=True, softmax=True)
        return loss

    def train_pre_transforms(self, context: Any) -> Sequence[Callable[..., Any]]:
        both = ("image", "label")
        return [
            *self.val_pre_transforms(context)[:-1],
            SpatialPadd(both, CROP),
            RandCropByPosNegLabeld(both, "label", CROP, num_samples=CROPS),
            SelectItemsd(both),
        ]

    def train_post_transforms(self, context: Any) -> Sequence[Callable[..., Any]]:
        return [
            Activationsd("pred", softmax=True),
            AsDiscreted(
                ("pred", "label"), argmax=(True, False), to_onehot=(self.classes, self.classes)
            ),
        ]

    def val_pre_transforms(self, context: Any) -> Sequence[Callable[..., Any]]:
        return [
            LoadImaged(("image", "label")),
            EnsureTyped(("image", "label")),
            EnsureChannelFirstd(("image", "label")),
            NormalizeIntensityd("image"),
            SelectItemsd(("image", "label")),
        ]

    def val_inferer(self, context: Any) -> Callable[..., Any]:
        return _slide


class StockTraining:
    """Rounds of MONAI Label's training in one folder, each starting from the published model."""

    def __init__(self, folder: Path, labels: Mapping[str, int]) -> None:
        """Make it.

        Args:
            folder: where it keeps its model.
            labels: name to value.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._classes = len(labels) + 1
        for name in ("monailabel", "ignite"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def train(self, cases: Sequence[Case], *, seed: int) -> float:
        """Train on labeled cases; returns the accuracy that Slicer would show."""
        torch.manual_seed(seed)
        task = _Task(self._folder, self._classes)
        with tempfile.TemporaryDirectory() as copies:
            # labels of other names may lie anywhere; LoadImaged wants paths
            datalist = [
                {"image": str(case.image), "label": shutil.copy(str(case.label), copies)}
                for case in cases
                if case.label is not None
            ]
            task.pre_process = lambda *_: datalist
            request = {
                "device": "cpu",
                "multi_gpu": False,
                "val_split": VAL_SPLIT,
                "dataset": "CacheDataset",
                "dataloader": "ThreadDataLoader",
                "tracking": "None",
                "pretrained": True,
            }
            task(request, None)
        stats = json.loads((self._folder / "train_stats.json").read_text())
        return float(stats["best_metric"])

    def segment(self, image: Path) -> Array:
        """Return the published model's label map of a scan, `(I, J, K)`."""
        network = _unet(self._classes)
        state = torch.load(self._folder / "published.pt", weights_only=False)
        network.load_state_dict(state.get("model", state))  # ignite saves a lone object bare
        scan = torch.from_numpy(read_scan(image).array)[None, None]
        scan = (scan - scan.mean()) / scan.std()
        with torch.inference_mode():
            label: Array = _slide(scan, network.eval()).argmax(dim=1)[0].numpy()
        return label


def _unet(classes: int) -> nn.Module:
    network: nn.Module = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=classes,
        channels=(16, 32, 64, 128),
        strides=(2, 2, 2),
        num_res_units=2,
        norm="batch",
    )
    return network


def _slide(inputs: torch.Tensor, network: nn.Module, *_: Any, **__: Any) -> torch.Tensor:
    logits: torch.Tensor = sliding_window_inference(inputs, CROP, 4, network, overlap=0.25)
    return logits
