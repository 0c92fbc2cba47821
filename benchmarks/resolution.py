"""What coarser voxels cost the labels of a pool, and which voxels each preset chooses.

    python benchmarks/resolution.py --data DIR --labels a,b

DIR holds images/ and labels/. Prints the Dice of labels with themselves after resampling to voxels
several times the pool's own size and back (of the label that suffers most), and the voxels that
each preset chooses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from uncol.data.frame import choose_space
from uncol.data.scan import read_grid
from uncol.experiments.pool import open_pool
from uncol.packages import report_header
from uncol.training.presets import PRESETS
from uncol.training.resolution import FACTORS, coarsen, grown, label_boxes, self_dice


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and labels/")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="draws the cases")
    options = parser.parse_args()
    pool = open_pool(options.data, options.labels)
    cases = pool.cases(pool.shuffled(options.seed)[: options.cases], [])
    own = choose_space([read_grid(case.image, case=case.name) for case in cases])
    boxes = [box for box, _ in label_boxes(cases, own, pool.labels)]
    header = report_header(seed=options.seed, data=str(options.data), cases=len(boxes))
    for name, value in header.items():
        print(f"{name}: {value}")
    print("own voxels, mm:", _shown(own.spacing_mm))
    for factor in FACTORS[1:]:
        coarse = grown(own, factor, flat=False)
        dice = self_dice(boxes, own, coarse, pool.labels)
        print(f"{factor:5} times: {_shown(coarse.spacing_mm)} mm, Dice kept {dice:.3f}")
    for name, preset in PRESETS.items():
        flat = preset.spec.dims == 2
        space = coarsen(own, cases, pool.labels, voxels=preset.voxels, flat=flat)
        print(f"{name}: {_shown(space.spacing_mm)} mm")


def _shown(spacing_mm: tuple[float, float, float]) -> str:
    return " x ".join(f"{size:.3g}" for size in spacing_mm)


if __name__ == "__main__":
    main()
