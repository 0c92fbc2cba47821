"""Train through the REST API on a few labels and measure Dice on unseen cases.

    python benchmarks/hippocampus_rest.py --data DIR [--labeled 8 --unlabeled 40 --test 40 --seed 0]
                                          [--supervised]

DIR holds images/ and labels/. The server runs with defaults. Test scans are never in its studies
folder: they are uploaded as sessions, so no training sees them. With `--supervised`, the same
student trains for as many steps on the same labels alone, without the generalist.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from uncol.data.scan import read_label
from uncol.demo.server import running_server
from uncol.packages import report_header
from uncol.server.client import MONAILabelClient
from uncol.training.plan import make_plan
from uncol.versions.metrics import dice_per_label


def main() -> None:
    """Run the benchmark and print one JSON object."""
    options = parse()
    names = sorted(path.name for path in (options.data / "images").iterdir())
    random.Random(options.seed).shuffle(names)
    parts = np.cumsum([options.labeled, options.unlabeled, options.test])
    labeled, pool, test = names[: parts[0]], names[: parts[1]], names[parts[1] : parts[2]]
    labels = {name: value for value, name in enumerate(options.labels.split(","), start=1)}
    seconds, rows = play(options, labels, pool, labeled, test)
    found = {name: float(np.nanmean([row[name] for row in rows])) for name in labels}
    report = {
        **report_header(
            seed=options.seed,
            data=str(options.data),
            labeled=len(labeled),
            unlabeled=0 if options.supervised else len(pool) - len(labeled),
            test=len(test),
        ),
        "dice": float(np.mean(list(found.values()))),
        "dice_per_label": found,
        "train_seconds": round(seconds),
    }
    print(json.dumps(report, indent=2))


def play(
    options: argparse.Namespace,
    labels: dict[str, int],
    pool: list[str],
    labeled: list[str],
    test: list[str],
) -> tuple[float, list[dict[str, float]]]:
    """Submit labels, train, segment the test cases; returns seconds of training and their Dice."""
    with tempfile.TemporaryDirectory() as folder:
        studies, model_dir = Path(folder) / "studies", Path(folder) / "model"
        studies.mkdir()
        conf = {"teacher": "none"} if options.supervised else {}
        for name in labeled if options.supervised else pool:
            shutil.copy(options.data / "images" / name, studies / name)
        with running_server(studies, labels=options.labels, model_dir=model_dir, conf=conf) as url:
            client = MONAILabelClient(url)
            info = [{"name": name, "idx": value} for name, value in labels.items()]
            for name in labeled:
                truth = str(options.data / "labels" / name)
                client.save_label(case_of(name), truth, params={"label_info": info})
            seconds = train(client, options)
            rows = [score(client, options.data, name, labels) for name in test]
    return seconds, rows


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", default="anterior,posterior")
    parser.add_argument("--labeled", type=int, default=8)
    parser.add_argument("--unlabeled", type=int, default=40)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="draws the cases and seeds the run")
    parser.add_argument("--supervised", action="store_true")
    return parser.parse_args()


def case_of(name: str) -> str:
    """Return the case of a NIfTI file."""
    return name.removesuffix(".nii.gz")


def train(client: MONAILabelClient, options: argparse.Namespace) -> float:
    """Train and wait; returns the seconds it took, including the child's start-up."""
    start = time.time()
    client.train_start("uncol", {"seed": options.seed, **supervised(options)})
    while True:
        time.sleep(5)
        state = client.train_status()
        stats = client.info()["train_stats"]["uncol"]
        print(f"{time.time() - start:5.0f} s {stats.get('phase')}", file=sys.stderr, flush=True)
        if state["status"] not in ("SUBMITTED", "RUNNING"):
            break
    if state["status"] != "DONE":
        raise SystemExit("\n".join(state["details"]))
    return time.time() - start


def supervised(options: argparse.Namespace) -> dict[str, object]:
    """Return training options that spend the semi-supervised steps on the labels alone."""
    if not options.supervised:
        return {}
    steps = make_plan(options.labeled, options.unlabeled, gpu=False).steps
    alone = make_plan(options.labeled, 0, gpu=False).steps
    return {"labeled_only": True, "step_scale": steps / alone}


def score(
    client: MONAILabelClient, data: Path, name: str, labels: dict[str, int]
) -> dict[str, float]:
    """Segment one unseen scan through a session and compare with its label."""
    session = client.create_session(str(data / "images" / name))["session_id"]
    file, _ = client.infer("uncol", case_of(name), {}, session_id=session)
    client.remove_session(session)
    found = read_label(file).array
    Path(file).unlink()
    return dice_per_label(found, read_label(data / "labels" / name).array, labels)


if __name__ == "__main__":
    main()
