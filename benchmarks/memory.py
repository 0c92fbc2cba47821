"""Train on a pool that is larger than the memory the process may have.

    python benchmarks/memory.py [--scans 120 --limit-gb 1.5 --seed 0 --teacher litemedsam]

Makes scans of 256 x 256 x 128, trains on them in a child that a control group keeps within the
limit (needs root; without it only the peak is measured), and prints the size of the pool and the
child's peak memory, without what is merely cached from disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import torch

from uncol.data.cases import Case
from uncol.packages import report_header
from uncol.round_settings import RoundSettings
from uncol.training.reporter import Reporter
from uncol.training.round import train_round
from uncol.versions.store import ModelStore

SHAPE = (256, 256, 128)
LABELED = 12
GROUPS = Path("/sys/fs/cgroup")
GIB = 2**30


def make(folder: Path, scans: int, seed: int) -> None:
    """Write scans with a bright ellipsoid each, and the labels of the first ones."""
    axes = np.meshgrid(*map(np.arange, SHAPE), indexing="ij", sparse=True)
    for number in range(scans):
        draw = np.random.default_rng([seed, number])
        center = [size * draw.uniform(0.4, 0.6) for size in SHAPE]
        inside = sum(
            ((a - c) / (0.15 * s)) ** 2 for a, c, s in zip(axes, center, SHAPE, strict=True)
        )
        label = (inside < 1).astype(np.uint8)
        scan = (label * 300 + draw.normal(500, 80, SHAPE)).astype(np.int16)
        nib.save(nib.Nifti1Image(scan, np.eye(4)), folder / f"scan{number:04d}.nii")
        if number < LABELED:
            nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"label{number:04d}.nii.gz")


def train(folder: Path, seed: int, teacher: str) -> None:
    """Train on the folder, in the child."""
    cases = []
    for scan in sorted(folder.glob("scan*.nii")):
        label = folder / f"{scan.stem.replace('scan', 'label')}.nii.gz"
        cases.append(Case(scan.stem, scan, label if label.exists() else None))
    settings = RoundSettings(
        labels={"ellipsoid": 1},
        preset="tiny3d",
        generalist=teacher,
        generalist_weights=None,
        mode="intended",
        modality="mr",
        model_dir=folder / "model",
        device=torch.device("cpu"),
        seed=seed,
        step_scale=0.1,
    )
    train_round(cases, settings, Reporter())


def confine(limit_bytes: int) -> Path | None:
    """Make a control group for the child; None where that is not allowed."""
    old = (GROUPS / "memory").is_dir()
    group = GROUPS / ("memory" if old else "") / f"uncol-{os.getpid()}"
    try:
        group.mkdir()
        name = "memory.limit_in_bytes" if old else "memory.max"
        (group / name).write_text(str(limit_bytes))
    except OSError:
        return None
    return group


def anonymous_peak(process: psutil.Process, peak: list[int], over: threading.Event) -> None:
    """Follow a process's peak of memory that is not mapped from files, in bytes, into `peak[0]`."""
    while not over.wait(0.2):
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
        peak[0] = max(peak[0], *(int(one) * 1024 for one in found), 0)


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=120)
    parser.add_argument("--limit-gb", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teacher", default="litemedsam", help="none takes minutes, not an hour")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train, options.seed, options.teacher)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, options.scans, options.seed)
        scans = size_of(folder)
        group = confine(int(options.limit_gb * GIB))
        command = [sys.executable, __file__, "--train", str(folder), "--seed", str(options.seed)]
        command += ["--teacher", options.teacher]
        start, peak, over = time.monotonic(), [0], threading.Event()
        child = subprocess.Popen(command)
        if group is not None:
            (group / "cgroup.procs").write_text(str(child.pid))
        watch = threading.Thread(
            target=anonymous_peak, args=(psutil.Process(child.pid), peak, over)
        )
        watch.start()
        code = child.wait()
        over.set()
        watch.join()
        if group is not None:
            group.rmdir()
        report = {
            **report_header(seed=options.seed, teacher=options.teacher),
            "scans": options.scans,
            "scans_gb": round(scans / GIB, 2),
            "prepared_gb": round(size_of(folder / "model" / "cache") / GIB, 2),
            "limit_gb": options.limit_gb if group is not None else None,
            "held_at_peak_gb": round(peak[0] / GIB, 2),
            "exit_code": code,
            "published": ModelStore(folder / "model").current(),
            "seconds": round(time.monotonic() - start),
        }
    print(json.dumps(report, indent=2))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
