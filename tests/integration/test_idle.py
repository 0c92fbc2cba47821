"""While nobody works, the server's student goes on learning, and gives way when somebody does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from one_server import stats, submit, wait

from uncol.demo.pool import make_pool
from uncol.demo.server import running_server
from uncol.versions.store import ModelStore

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CASES = 11  # from ten labels on, some are held out
CONF = {"preset": "tiny3d", "teacher": "none", "idle_training": "on", "idle_after_s": "3"}


def idle(url: str) -> dict[str, Any]:
    return stats(url).get("idle") or {}


def test_the_student_goes_on_learning_while_nobody_works(
    tmp_path: Path,
) -> None:
    studies, truth = tmp_path / "studies", tmp_path / "truth"
    labels = make_pool(studies, truth, cases=CASES, seed=7)
    store = ModelStore(tmp_path / "model")
    with running_server(studies, model_dir=tmp_path / "model", labels=labels, conf=CONF) as url:
        cases = requests.get(f"{url}/datastore/?output=all", timeout=60).json()["objects"]
        for case in sorted(cases)[:-1]:
            submit(url, truth / f"{case}.nii.gz", case, labels)
        reply = requests.post(f"{url}/train/uncol", json={"step_scale": 0.01}, timeout=60)
        assert reply.ok, reply.text
        wait(lambda: stats(url).get("model_version") == 1)
        assert store.manifest(1).cases["held_out"]

        checkpoint = tmp_path / "model" / "uncol" / "runs" / "idle" / "checkpoint.pt"
        wait(lambda: idle(url).get("epoch", 0) > 0 and checkpoint.exists())  # nobody asked for it
        began = idle(url)["start_ts"]
        reply = requests.post(f"{url}/infer/uncol", params={"image": sorted(cases)[-1]}, timeout=60)
        assert reply.ok, reply.text
        done = torch.load(checkpoint, weights_only=True)["trainer"]["done"]
        wait(lambda: idle(url)["start_ts"] > began and idle(url)["epoch"] > 0)
        assert idle(url)["epoch"] > done > 0  # it goes on where it was
        assert requests.get(f"{url}/train/?check_if_running=true", timeout=60).status_code == 404
        # who presses Train is not kept waiting
        reply = requests.post(f"{url}/train/uncol", json={"step_scale": 0.01}, timeout=60)
        assert reply.ok, reply.text
        wait(lambda: "total_time" in stats(url) and bool(store.versions()[1:]))
        made = store.manifest(2)
        assert not made.idle
        assert made.parent is not None
