"""Train nnU-Net for some minutes on a pool, and judge it like `uncol benchmark ssl` does.

    python3.11 -m venv nnunet && nnunet/bin/pip install nnunetv2 torch==2.11.0 torchvision==0.26.0
    python benchmarks/nnunet.py --nnunet nnunet/bin --studies DIR --labels a,b --budgets 4 \
        --seeds 0 --minutes 2,10 --out FILE

nnU-Net needs other versions of some packages, so it lives in an environment of its own. It learns
from the annotated scans alone, with the plans that it makes itself. Its planning and preprocessing
are not counted. The cases are those of `uncol benchmark ssl` with the same `--train`, `--test` and
seed, and so is the shape of the lines; `uncol benchmark ssl` with the same `--out` and `--minutes`
shows them beside its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from uncol.cli import options
from uncol.data.scan import read_label, read_scan, write_volume
from uncol.experiments.comparison import Comparison, Training, header
from uncol.experiments.points import Point, points_like
from uncol.experiments.pool import LabeledPool, open_pool
from uncol.experiments.ssl import judge_labels
from uncol.experiments.ssl_report import NNUNET
from uncol.storage.files import append_line
from uncol.types import Array

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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nnunet", type=Path, required=True, help="folder of nnU-Net's commands")
    parser.add_argument("--studies", type=Path, required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--patient", default="")
    parser.add_argument("--preset", default="auto", help="as the lines beside it have")
    parser.add_argument("--configuration", default="3d_fullres", choices=("2d", "3d_fullres"))
    parser.add_argument("--train", type=int, default=48)
    parser.add_argument("--test", type=int, default=options.TEST)
    parser.add_argument("--budgets", default="4")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--minutes", default="2,10")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    comparison = Comparison(
        pool=open_pool(asked.studies, asked.labels, patient=asked.patient),
        methods=("supervised",),
        budgets=options.numbers(asked.budgets),
        seeds=options.numbers(asked.seeds),
        train=asked.train,
        test=asked.test,
        steps=None,
        settings=options.round_of(asked.labels, asked.preset, "litemedsam", 1.0),
        out=asked.out,
        minutes=options.decimals(asked.minutes),
    )
    comparison.check()
    Console().print(header(comparison))
    for training in comparison.trainings():
        line = {**comparison.line(training), "method": NNUNET, "recipe": asked.configuration}
        if not points_like(asked.out, line):
            with tempfile.TemporaryDirectory() as folder:
                limit = training.minutes or 0
                network = NnUnet(asked.nnunet, Path(folder), asked.configuration, limit)
                append_line(
                    asked.out, json.dumps({**line, **_judged(network, comparison, training)})
                )


def _judged(network: NnUnet, comparison: Comparison, training: Training) -> Point:
    pool = comparison.pool
    train, test = pool.parts(training.seed, test=comparison.test)
    figures = network.learn(pool, train[: training.budget])
    labels = network.segment(pool, test)

    def label_of(file: str) -> Array:
        return read_label(labels / file).array

    own = judge_labels(pool, label_of, test)
    return {
        **own,
        "single": [],
        "served": own,
        "seconds": figures["seconds"],
        "step_seconds": round(figures["seconds"] / figures["steps"], 4),
        "planned_steps": [figures["steps"], 0],
    }


if __name__ == "__main__":
    main()
