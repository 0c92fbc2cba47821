"""Measure *Next Sample* on a large pool, over HTTP and in the strategy itself.

    python benchmarks/next_sample.py [--images 10000 --requests 200 --seed 0]

The studies folder holds that many copies of one small scan (hard links), each with a score of a
published version. MONAI Label's `Epistemic` strategy is measured on the same store and scores; as
released it fails there, see `in_process`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import requests
from timing import timed

from uncol.datastores.folder import StudiesFolder
from uncol.demo.server import running_server
from uncol.experiments.monai_label.epistemic import monai_label_strategy
from uncol.packages import report_header
from uncol.selection.queue import Queue
from uncol.selection.scores import LabelScore, Score, scores_of
from uncol.storage.files import write_text
from uncol.tasks.requests import SampleRequest
from uncol.tasks.strategy import Leases, UncolStrategy
from uncol.versions.store import ModelStore

LABELS = {"target": 1}
CLIENTS = 20
THEIRS = 5  # requests to MONAI Label's strategy, which takes long


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        studies, model_dir = Path(folder) / "studies", Path(folder) / "model"
        fill(studies, model_dir, options.images, options.seed)
        strategy, theirs = in_process(studies, model_dir, options.requests)
        whole, distinct = over_http(studies, model_dir, options.requests)
    report = {
        **report_header(seed=options.seed, images=options.images, requests=options.requests),
        "strategy_ms": strategy,
        "monai_label_epistemic_strategy_ms": theirs,
        "whole_request_ms": whole,
        "different_cases_for_20_clients_at_once": distinct,
    }
    print(json.dumps(report, indent=2))


def fill(studies: Path, model_dir: Path, images: int, seed: int) -> None:
    """Make the pool and its scores."""
    studies.mkdir()
    rng = np.random.default_rng(seed)
    first = studies / "case00000.nii.gz"
    nib.save(nib.Nifti1Image(rng.normal(size=(8, 8, 8)).astype(np.float32), np.eye(4)), first)
    for number in range(1, images):
        os.link(first, studies / f"case{number:05d}.nii.gz")
    store = ModelStore(model_dir)
    ledger = scores_of(store.folder, 1)
    ledger.path.parent.mkdir(parents=True)
    with ledger.path.open("w") as stream:
        for number in range(images):
            label = LabelScore(uncertainty=float(rng.random()), voxels=100, dice=0.8)
            score = Score(
                case=f"case{number:05d}",
                quality=0.8,
                interval=(0.7, 0.9),
                band="check",
                labels={"target": label},
            )
            stream.write(score.model_dump_json() + "\n")
    write_text(store.folder.current, "1")


def in_process(
    studies: Path, model_dir: Path, count: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Time our strategy and MONAI Label's on one datastore."""
    store = StudiesFolder(str(studies), labels=LABELS)
    models = ModelStore(model_dir)
    queue = Queue(models, "none")
    queue.refresh(waiting=set(store.list_images()), labeled=set())
    ours = UncolStrategy("uncol", queue, Leases())
    scores = scores_of(models.folder, 1).read()
    for name in store.list_images():
        store.update_image_info(name, {"epistemic_entropy": scores[name].uncertainty})
    theirs = monai_label_strategy()
    # it writes 10 ** rank to its log, which Python refuses from some 4,300 images on
    sys.set_int_max_str_digits(0)
    return (
        timed(lambda n: ours(SampleRequest(client_id=f"client {n}"), store), count),
        timed(lambda n: theirs({"strategy": "epistemic"}, store), THEIRS),
    )


def over_http(studies: Path, model_dir: Path, count: int) -> tuple[dict[str, float], int]:
    """Time whole requests to a real server; then let 20 clients ask at once."""
    with running_server(
        studies, model_dir=model_dir, labels="target", conf={"teacher": "none"}
    ) as url:

        def ask(number: int) -> str:
            body = {"client_id": f"client {number}"}
            reply = requests.post(f"{url}/activelearning/uncol", json=body, timeout=600)
            return str(reply.json()["id"])

        ask(-1)  # the first request after a start reads the stored scores
        times = timed(ask, min(count, 50))
        with ThreadPoolExecutor(CLIENTS) as clients:
            cases = list(clients.map(ask, range(1000, 1000 + CLIENTS)))
    return times, len(set(cases))


if __name__ == "__main__":
    main()
