"""Train nnU-Net for some minutes on a pool, and judge it like `uncol benchmark ssl` does.

    python3.11 -m venv nnunet && nnunet/bin/pip install nnunetv2 torch==2.11.0 torchvision==0.26.0
    python benchmarks/nnunet.py --nnunet nnunet/bin --studies DIR --labels a,b --budgets 4 \
        --seeds 0 --minutes 2,10 --out FILE

nnU-Net needs other versions of some packages, so it lives in an environment of its own. It learns
from the annotated scans alone, with the plans that it makes itself. Its planning and preprocessing
are not counted. `beside.py` says how its lines are shown.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from beside import arguments, compare, judged, parts

from uncol.data.scan import read_label, read_scan, write_volume
from uncol.experiments.comparison import Comparison, Training
from uncol.experiments.points import Point
from uncol.experiments.pool import LabeledPool

TRAINER = "nnUNetTrainerMinutes"
HERE = Path(__file__).resolve().parent
DATASET = "Dataset001_pool"


@dataclass(frozen=True)
class NnUnet:
    """nnU-Net's commands, on one folder.

    Attributes:
        bin: folder of its commands.
        folder: holds its data sets, plans and results.
        configuration: `2d` or `3d_fullres`.
        minutes: how long it trains.
    """

    bin: Path
    folder: Path
    configuration: str
    minutes: float

    def run(self, command: str, *arguments: str) -> None:
        """Run one of its commands, with as many threads as torch has here."""
        folders = {
            f"nnUNet_{name}": str(self.folder / name) for name in ("raw", "preprocessed", "results")
        }
        more = {
            "nnUNet_extTrainer": str(HERE / "nnunet_trainer"),
            # crops are made by the process that trains; planning must have one more
            "nnUNet_n_proc_DA": "0" if command == "nnUNetv2_train" else "1",
            "UNCOL_MINUTES": str(self.minutes),
            "UNCOL_THREADS": str(torch.get_num_threads()),
        }
        subprocess.run(
            [str(self.bin / command), *arguments], env={**os.environ, **folders, **more}, check=True
        )

    def learn(self, pool: LabeledPool, files: Sequence[str]) -> Point:
        """Plan and train on annotated scans; returns seconds and steps."""
        raw = self.folder / "raw" / DATASET
        images, labels = raw / "imagesTr", raw / "labelsTr"
        images.mkdir(parents=True)
        labels.mkdir()
        for number, file in enumerate(files):
            scan, label = read_scan(pool.images / file), read_label(pool.truth / file)
            write_volume(images / f"case{number:03}_0000.nii.gz", scan.array, scan.grid)
            write_volume(labels / f"case{number:03}.nii.gz", label.array.astype("uint8"), scan.grid)
        about = {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, **pool.labels},
            "numTraining": len(files),
            "file_ending": ".nii.gz",
        }
        (raw / "dataset.json").write_text(json.dumps(about))
        self.run(
            "nnUNetv2_plan_and_preprocess", "-d", "1", "-c", self.configuration,
            "-npfp", "1", "-np", "1",
        )  # fmt: skip
        self.run("nnUNetv2_train", "1", self.configuration, "all", "-tr", TRAINER, "-device", "cpu")
        (figures,) = (self.folder / "results").rglob("minutes.json")
        found: Point = json.loads(figures.read_text())
        return found

    def segment(self, pool: LabeledPool, files: Sequence[str]) -> Path:
        """Segment scans; returns the folder of labels, named as the scans."""
        asked, given = self.folder / "asked", self.folder / "given"
        asked.mkdir()
        for number, file in enumerate(files):
            scan = read_scan(pool.images / file)
            write_volume(asked / f"case{number:03}_0000.nii.gz", scan.array, scan.grid)
        self.run(
            "nnUNetv2_predict", "-i", str(asked), "-o", str(given), "-d", "1", "-f", "all",
            "-c", self.configuration, "-tr", TRAINER, "-device", "cpu", "-npp", "1", "-nps", "1",
        )  # fmt: skip
        for number, file in enumerate(files):
            shutil.move(given / f"case{number:03}.nii.gz", given / file)
        return given


def main() -> None:
    """Run what is not in the file yet, and write a line each."""
    parser = arguments(__doc__)
    parser.add_argument("--nnunet", type=Path, required=True, help="folder of nnU-Net's commands")
    parser.add_argument("--configuration", default="3d_fullres", choices=("2d", "3d_fullres"))
    asked = parser.parse_args()

    def run(comparison: Comparison, training: Training) -> Point:
        labeled, test = parts(comparison, training)
        with tempfile.TemporaryDirectory() as folder:
            minutes = training.minutes or 0
            network = NnUnet(asked.nnunet, Path(folder), asked.configuration, minutes)
            figures = network.learn(comparison.pool, labeled)
            labels = network.segment(comparison.pool, test)
            return judged(comparison, test, lambda file: read_label(labels / file).array, **figures)

    compare(asked, "nnunet", asked.configuration, run)


if __name__ == "__main__":
    main()
