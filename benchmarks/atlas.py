"""Carry annotations over by registration, without training, and judge that as trainings are.

    python benchmarks/atlas.py --studies DIR --labels a,b --seeds 0,1,2 --out FILE

It is what `uncol` answers before the first training (`lib/uncol/inference/atlas.py`). The minutes
only say beside which trainings it is shown.
"""

from __future__ import annotations

import time

import SimpleITK as sitk
import torch
from beside import arguments, compare, judged, parts

from uncol.data.scan import read_label, read_scan
from uncol.experiments.comparison import Comparison, Training
from uncol.experiments.points import Point
from uncol.inference.atlas import Atlas, carry


def main() -> None:
    """Run what is not in the file yet, and write a line each."""
    asked = arguments(__doc__).parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
    compare(asked, "atlas", "affine, demons, weighted votes", run)


def run(comparison: Comparison, training: Training) -> Point:
    """Carry the annotations of the training scans over to those that judge."""
    labeled, test = parts(comparison, training)
    pool = comparison.pool
    start = time.monotonic()
    atlases = [
        Atlas(read_scan(pool.images / file), read_label(pool.truth / file).array)
        for file in labeled
    ]
    labels = {file: carry(atlases, read_scan(pool.images / file)) for file in test}
    seconds = (time.monotonic() - start) / len(test)
    return judged(comparison, test, labels.__getitem__, seconds=seconds, steps=len(labeled))


if __name__ == "__main__":
    main()
