"""Compare `segment` (label, map and quality) with the bare sliding-window forward.

    python benchmarks/infer_latency.py [--preset small3d --repeats 5]

Both run the same network, window and overlap on one random 128 x 128 x 64 volume.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from uncol.data.frame import Space
from uncol.data.grid import Grid, Volume
from uncol.inference.outputs import SegmentSettings, segment
from uncol.inference.predict import OVERLAP
from uncol.networks.arithmetic import fast_arithmetic
from uncol.networks.student import Student
from uncol.packages import report_header
from uncol.training.presets import fit_preset
from uncol.uncertainty.calibration import Calibration

SHAPE = (128, 128, 64)
LABELS = {"anterior": 1, "posterior": 2}

CALIBRATION = Calibration(temperatures=(0.9, 1.3, 1.4))  # as after a first round


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="small3d")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--one-piece",
        action="store_true",
        help="drop stray pieces; the worst case, since an untrained student has no others",
    )
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset = fit_preset(options.preset, shape=SHAPE, spacing_mm=(1.0, 1.0, 1.0))
    single = ((1, 2), (1,), (2,)) if options.one_piece else ()
    student = Student(preset.spec, len(LABELS) + 1).eval().to(device)
    array = np.random.default_rng(options.seed).normal(size=SHAPE).astype(np.float32)
    scan = Volume(array, Grid(SHAPE, np.eye(4)))
    image = torch.from_numpy(array)[None, None]

    def bare() -> None:
        with torch.inference_mode(), fast_arithmetic(device):
            sliding_window_inference(
                image,
                preset.crop,
                1,
                lambda window: student(window).mean_logits.float(),
                overlap=OVERLAP,
                mode="gaussian",
                sw_device=device,
                device=torch.device("cpu"),
            )

    def ours() -> None:
        segment(
            student,
            scan,
            SegmentSettings(Space("RAS", (1.0, 1.0, 1.0)), "mr", preset.crop, LABELS, single),
            device=device,
            calibration=CALIBRATION,
        )

    bare()  # warm up
    ours()
    pairs = [(timed(bare), timed(ours)) for _ in range(options.repeats)]
    ratios = [mine / plain for plain, mine in pairs]
    report = {
        **report_header(preset=options.preset, window=preset.crop, seed=options.seed),
        "one_piece": options.one_piece,
        "bare_s": round(statistics.median(p for p, _ in pairs), 3),
        "segment_s": round(statistics.median(m for _, m in pairs), 3),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "device": str(device),
    }
    print(json.dumps(report, indent=2))


def timed(run: Callable[[], None]) -> float:
    """Return the seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
