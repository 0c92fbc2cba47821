"""Eight clients for ten minutes beside training and scoring: failures, lost labels, memory.

    python benchmarks/load.py [--minutes 10] [--clients 8] [--data DIR --labels a,b] [--seed 0]

Every client is one annotator: next sample, infer, submit a label, look at what is stored. Training
is started again whenever it ends, scoring starts by itself. Without --data, the demo's brains are
used. Prints seed, versions, data and figures; exits with 1 if a request failed or a label was lost.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from uncol.data.scan import read_label
from uncol.demo.pool import make_pool
from uncol.demo.server import running_server
from uncol.experiments.pool import open_pool
from uncol.packages import report_header
from uncol.versions.store import ModelStore

CASES = 40
PAUSE_S = 0.5  # between two cases, for a very fast annotator


class Load:
    """What the clients do and what came of it."""

    def __init__(self, url: str, truth: Path, labels: dict[str, int], studies: Path) -> None:
        self.url, self.truth, self.labels, self.studies = url, truth, labels, studies
        self.took: dict[str, list[float]] = collections.defaultdict(list)
        self.failures: list[str] = []
        self.submitted: set[str] = set()
        self.guard = threading.Lock()
        self.over = threading.Event()

    def ask(self, what: str, method: str, path: str, **options) -> requests.Response | None:
        """Send a request; a failure is recorded, and None returned."""
        start = time.monotonic()
        try:
            reply = requests.request(method, self.url + path, timeout=120, **options)
            if not reply.ok:
                raise requests.RequestException(f"{reply.status_code} {reply.text[:200]}")
        except requests.RequestException as error:
            with self.guard:
                self.failures.append(f"{what}: {error}")
            return None
        with self.guard:
            self.took[what].append(time.monotonic() - start)
        return reply

    def annotate(self, number: int, cases: list[str]) -> None:
        """Play an annotator until it is over."""
        draw = random.Random(number)
        while not self.over.is_set():
            client = {"client_id": f"reader {number}"}
            self.ask("next sample", "POST", "/activelearning/uncol", json=client)
            case = draw.choice(cases)
            form = {"params": json.dumps({"result_extension": ".nrrd"})}
            self.ask("infer", "POST", "/infer/uncol", params={"image": case}, data=form)
            self.submit(draw.choice(cases[: len(cases) // 2]))
            self.ask("datastore", "GET", "/datastore/?output=all")
            self.over.wait(PAUSE_S)

    def submit(self, case: str) -> None:
        """Submit a case's true label."""
        info = [{"name": name, "idx": value} for name, value in self.labels.items()]
        with (self.truth / f"{case}.nii.gz").open("rb") as stream:
            done = self.ask(
                "label",
                "PUT",
                "/datastore/label",
                params={"image": case},
                data={"params": json.dumps({"label_info": info})},
                files={"label": (f"{case}.nii.gz", stream)},
            )
        if done is not None:
            with self.guard:
                self.submitted.add(case)

    def train(self) -> int:
        """Keep a training under way; returns how many were started."""
        started = 0
        while not self.over.wait(2):
            stats = requests.get(f"{self.url}/info/", timeout=120).json()["train_stats"]["uncol"]
            if not stats or "total_time" in stats:
                body = {"step_scale": 0.2, "seed": started}
                started += requests.post(f"{self.url}/train/uncol", json=body, timeout=120).ok
        return started

    def lost(self) -> list[str]:
        """The cases whose submitted label is missing or differs from what was drawn."""
        found = []
        for case in sorted(self.submitted):
            path = self.studies / "labels" / "final" / f"{case}.nii.gz"
            same = path.exists() and np.array_equal(
                read_label(path).array, read_label(self.truth / path.name).array
            )
            if not same:
                found.append(case)
        return found


def memory_mb(url: str) -> tuple[float, float]:
    """Resident memory of the server and of its children, in MiB."""
    port = url.rsplit(":", 1)[1]
    for one in psutil.process_iter(["cmdline"]):
        if {"start_server", port} <= set(one.info["cmdline"] or []):
            children = 0.0
            for child in one.children(recursive=True):
                try:
                    children += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            return one.memory_info().rss / 2**20, children / 2**20
    return 0.0, 0.0


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--data", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--labels", default="")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, value in report_header(seed=options.seed).items():
        print(f"{name}: {value}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        studies, truth = folder / "studies", folder / "truth"
        if options.data is None:
            labels = make_pool(studies, truth, cases=CASES, seed=options.seed)
        else:
            labels, pool = options.labels, open_pool(options.data, options.labels)
            studies.mkdir()
            truth.mkdir()
            for file in pool.shuffled(options.seed)[:CASES]:
                shutil.copy(pool.images / file, studies)
                shutil.copy(pool.truth / file, truth)
        names = {text: value for value, text in enumerate(labels.split(","), start=1)}
        cases = sorted(path.name.removesuffix(".nii.gz") for path in truth.glob("*.nii.gz"))
        print(f"data: {options.data or 'brains of the MNI152 template'}, {len(cases)} cases")
        with running_server(
            studies, model_dir=folder / "model", labels=labels, conf={"preset": "tiny3d"}
        ) as url:
            run(Load(url, truth, names, studies), cases, options, folder)


def run(load: Load, cases: list[str], options: argparse.Namespace, folder: Path) -> None:
    """Put the load on a server that has its first model."""
    for case in cases[:4]:
        load.submit(case)
    requests.post(f"{load.url}/train/uncol", json={"step_scale": 0.1}, timeout=120)
    store = ModelStore(folder / "model")
    while store.current() is None:
        time.sleep(1)
    started: list[int] = []
    workers = [threading.Thread(target=lambda: started.append(load.train()))]
    workers += [
        threading.Thread(target=load.annotate, args=(number, cases))
        for number in range(options.clients)
    ]
    for worker in workers:
        worker.start()
    memory = []
    end = time.monotonic() + 60 * options.minutes
    while time.monotonic() < end:
        memory.append(memory_mb(load.url))
        time.sleep(5)
    load.over.set()
    for worker in workers:
        worker.join()
    report(load, started[0], store, memory, options)


def report(load: Load, started: int, store: ModelStore, memory: list, options) -> None:
    """Print the figures; end with 1 if anything failed."""
    for what, took in sorted(load.took.items()):
        median, late = np.percentile(took, [50, 95])
        print(f"{what:12} {len(took):6} requests, median {median:.2f} s, 95 % {late:.2f} s")
    print(f"trainings started {started}, versions {store.versions()}, served {store.current()}")
    server = np.array([one for one, _ in memory])
    tenths = ", ".join(f"{part.mean():.0f}" for part in np.array_split(server, 10) if len(part))
    print(
        f"server memory, MiB in each tenth of the time: {tenths}; peak {server.max():.0f}; "
        f"children at most {max(child for _, child in memory):.0f}"
    )
    lost = load.lost()
    print(f"failed requests {len(load.failures)}, labels lost {len(lost)} of {len(load.submitted)}")
    for failure in load.failures[:10]:
        print("  ", failure)
    if load.failures or lost:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
