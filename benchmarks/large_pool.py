"""Measure the record of a large pool: starts, *Next Sample*, and submissions beside scoring.

    python benchmarks/large_pool.py [--images 10000 --requests 100 --seed 0 --monai-label --http]

The studies folder holds that many small scans. `--monai-label` also times MONAI Label's own
`LocalDatastore` on a copy. `--http` times requests to a server that has trained a tiny student
on four of the scans, and scores the others meanwhile; the training takes minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import requests
from timing import timed

from uncol.datastores.folder import StudiesFolder
from uncol.demo.server import running_server
from uncol.packages import report_header

LABELS = {"target": 1}
SHAPE = (16, 16, 8)
LABELED = 4
TRAINED_WITHIN_S = 1800


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--monai-label", action="store_true")
    parser.add_argument("--http", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        label = fill(studies, options.images, options.seed)
        report = report_header(seed=options.seed, images=options.images, requests=options.requests)
        report["in_process"] = ours(studies, label, options.requests)
        if options.monai_label:
            copy = Path(folder) / "copy"
            copy.mkdir()
            for path in studies.glob("*.nii.gz"):
                shutil.copy(path, copy)
            report["monai_label_in_process"] = theirs(copy, label, options.requests)
        if options.http:
            report["over_http"] = over_http(studies, Path(folder), label, options.requests)
    print(json.dumps(report, indent=2))


def fill(studies: Path, images: int, seed: int) -> Path:
    """Make the scans, and a label that fits each."""
    studies.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(images):
        array = rng.integers(0, 1000, SHAPE, dtype=np.int16)
        nib.save(nib.Nifti1Image(array, np.eye(4)), studies / f"case{number:06d}.nii.gz")
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[4:12, 4:12, 2:6] = 1
    label = studies.parent / "label.nii.gz"
    nib.save(nib.Nifti1Image(drawn, np.eye(4)), label)
    return label


def ours(studies: Path, label: Path, count: int) -> dict[str, object]:
    """Time our datastore in process."""
    first = seconds(lambda: StudiesFolder(str(studies), labels=LABELS))
    store = StudiesFolder(str(studies), labels=LABELS)
    names = store.list_images()
    return {
        "first_start_s": first,
        "later_start_s": seconds(lambda: StudiesFolder(str(studies), labels=LABELS)),
        "look_s": seconds(store.refresh),
        "list_ms": timed(lambda _: store.get_unlabeled_images(), 10),
        "submit_ms": timed(
            lambda n: store.save_label(names[-1 - n], str(label), "final", {"user": "ada"}), count
        ),
    }


def theirs(studies: Path, label: Path, count: int) -> dict[str, object]:
    """Time MONAI Label's own datastore in process."""
    from monailabel.datastore.local import LocalDatastore  # noqa: PLC0415

    first = seconds(lambda: LocalDatastore(str(studies)))
    store = LocalDatastore(str(studies))
    names = store.list_images()
    return {
        "first_start_s": first,
        "later_start_s": seconds(lambda: LocalDatastore(str(studies))),
        "look_s": seconds(store.refresh),
        "list_ms": timed(lambda _: store.get_unlabeled_images(), 10),
        "submit_ms": timed(
            lambda n: store.save_label(names[-1 - n], str(label), "final", {"user": "ada"}), count
        ),
    }


def over_http(studies: Path, folder: Path, label: Path, count: int) -> dict[str, object]:
    """Time whole requests to a real server that scores in the background."""
    conf = {"teacher": "none", "preset": "tiny3d"}
    start = time.perf_counter()
    with running_server(studies, model_dir=folder / "model", labels="target", conf=conf) as url:
        report: dict[str, object] = {"start_s": round(time.perf_counter() - start, 1)}
        names = sorted(path.name[: -len(".nii.gz")] for path in studies.glob("*.nii.gz"))
        for name in names[:LABELED]:
            submit(url, name, label)
        requests.post(f"{url}/train/uncol", json={"step_scale": 0.02}, timeout=60)
        wait_for(lambda: requests.get(f"{url}/train/", timeout=60).json()["status"] == "DONE")
        wait_for(lambda: is_scoring(url))
        report["scoring_at_first"] = is_scoring(url)
        report["submit_ms"] = timed(lambda n: submit(url, names[LABELED + n], label), count)
        report["next_sample_ms"] = timed(lambda n: next_case(url, n), count)
        report["scoring_at_last"] = is_scoring(url)
    return report


def submit(url: str, case: str, label: Path) -> None:
    """Submit a label as Slicer does."""
    data = {"params": json.dumps({"label_info": [{"name": "target", "idx": 1}]})}
    with label.open("rb") as stream:
        requests.put(
            f"{url}/datastore/label",
            params={"image": case},
            data=data,
            files={"label": (label.name, stream)},
            timeout=600,
        ).raise_for_status()


def next_case(url: str, number: int) -> None:
    """Ask for the next case as a client that nobody knows yet."""
    body = {"client_id": f"client {number}"}
    requests.post(f"{url}/activelearning/uncol", json=body, timeout=600).raise_for_status()


def is_scoring(url: str) -> bool:
    """Say whether the server scores."""
    reply = requests.get(f"{url}/scoring/", timeout=60)
    return reply.ok and reply.json()["status"] == "RUNNING"


def wait_for(reached: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + TRAINED_WITHIN_S
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(1)


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes, in s."""
    start = time.perf_counter()
    work()
    return round(time.perf_counter() - start, 2)


if __name__ == "__main__":
    main()
