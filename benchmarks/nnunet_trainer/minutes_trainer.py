"""nnU-Net's trainer, stopped after some minutes; nnU-Net finds it through `nnUNet_extTrainer`.

All else is its own: network, crops, augmentation, loss, optimizer. Its rate falls over the minutes
as it does over 1,000 epochs. Nothing is validated, so all minutes are training.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

POWER = 0.9  # of the rate's fall, as nnU-Net has it


class nnUNetTrainerMinutes(nnUNetTrainer):  # noqa: N801 - nnU-Net looks for such names
    """Trains for `UNCOL_MINUTES` minutes with `UNCOL_THREADS` threads."""

    def run_training(self) -> None:
        """Train, keep the weights as `checkpoint_final.pth` and the figures as `minutes.json`."""
        limit = 60 * float(os.environ["UNCOL_MINUTES"])
        torch.set_num_threads(int(os.environ["UNCOL_THREADS"]))
        self.on_train_start()
        self.on_train_epoch_start()
        start, steps = time.monotonic(), 0
        while (share := (time.monotonic() - start) / limit) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - share) ** POWER
            self.train_step(next(self.dataloader_train))
            steps += 1
        figures = {"seconds": round(time.monotonic() - start, 1), "steps": steps}
        folder = Path(self.output_folder)
        self.save_checkpoint(str(folder / "checkpoint_final.pth"))
        (folder / "minutes.json").write_text(json.dumps(figures))
