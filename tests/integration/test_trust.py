"""Rounds that can be trusted, on a real server: second presses, kills, versions, who and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
import torch
from one_server import stats, submit, wait

from uncol.data.scan import read_label
from uncol.datastores.history import History
from uncol.demo.server import running_server
from uncol.versions.store import ModelStore

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CONF = {"preset": "tiny3d", "teacher": "none"}


@pytest.fixture
def start(pool: tuple[Path, Path, str], fresh_studies: Path, tmp_path: Path) -> Callable[[], Any]:
    """Starts the server on the same folders, as often as one likes."""
    return lambda: running_server(
        fresh_studies, model_dir=tmp_path / "model", labels=pool[2], conf=CONF
    )


def kill(url: str) -> None:
    """kill -9 of the server; its children must not outlive it."""
    port = url.rsplit(":", 1)[1]
    (server,) = [
        one
        for one in psutil.process_iter(["cmdline"])
        if {"start_server", port} <= set(one.info["cmdline"] or [])
    ]
    children = server.children(recursive=True)
    assert children
    server.kill()
    server.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_a_training_survives_the_server_s_death_and_versions_can_be_changed(
    start: Callable[[], Any], pool: tuple[Path, Path, str], fresh_studies: Path, tmp_path: Path
) -> None:
    truth, labels = pool[1], pool[2]
    cases = sorted(path.name.removesuffix(".nii.gz") for path in truth.glob("*.nii.gz"))
    checkpoint = tmp_path / "model" / "uncol" / "runs" / "checkpoint.pt"
    with start() as url:
        for case in cases[:3]:
            submit(url, truth / f"{case}.nii.gz", case, labels)
        submit(url, truth / f"{cases[0]}.nii.gz", cases[0], labels)

        # of two presses at once, only one counts
        def press(_: int) -> int:
            body = {"step_scale": 0.3}  # long enough to be under way when the server is killed
            return requests.post(f"{url}/train/uncol", json=body, timeout=60).status_code

        with ThreadPoolExecutor(2) as hands:
            assert sorted(hands.map(press, range(2))) == [200, 429]
        wait(checkpoint.exists)
        killed = stats(url)["start_ts"]
        kill(url)
    done = torch.load(checkpoint, weights_only=True)["trainer"]["done"]
    assert done > 0

    with start() as url:
        # nobody presses Train: it resumes, and the statistics show that
        wait(lambda: stats(url)["start_ts"] > killed and stats(url)["epoch"] > 0)
        assert stats(url)["epoch"] > done  # not from the start
        # requests are answered beside it
        reply = requests.post(
            f"{url}/infer/uncol", params={"image": cases[5]}, data={"params": "{}"}, timeout=60
        )
        assert reply.ok, reply.text
        assert b'"model_version":null,"carried_from":["' in reply.content
        wait(lambda: "total_time" in stats(url))
        assert stats(url)["model_version"] == 1
        for case in cases[:3]:
            kept = requests.get(
                f"{url}/datastore/label", params={"label": case, "tag": "final"}, timeout=60
            )
            (tmp_path / "back.nii.gz").write_bytes(kept.content)
            np.testing.assert_array_equal(
                read_label(tmp_path / "back.nii.gz").array,
                read_label(truth / f"{case}.nii.gz").array,
            )
        earlier, now = History(fresh_studies).of(cases[0])
        for one in (earlier, now):
            assert one.info["user"] == "admin"  # who everybody is without authentication

        # versions over REST
        models = ModelStore(tmp_path / "model")
        student, manifest = models.load(1)
        models.publish(student, manifest)
        listed = requests.get(f"{url}/uncol/models/", timeout=60).json()
        assert [one["served"] for one in listed] == [False, True]
        reply = requests.post(f"{url}/uncol/models/rollback", timeout=60)
        assert reply.json() == {"served": 1}
        reply = requests.post(
            f"{url}/infer/uncol",
            params={"image": cases[5], "output": "json"},
            data={"params": "{}"},
            timeout=60,
        )
        assert reply.json()["uncol"]["model_version"] == 1
        reply = requests.post(f"{url}/uncol/models/rollback", params={"version": 7}, timeout=60)
        assert reply.status_code == 400
        assert "there are: 1, 2" in reply.json()["detail"]
        assert requests.post(f"{url}/uncol/models/gc?keep=1", timeout=60).json() == {"deleted": []}
        told = requests.get(f"{url}/uncol/models/1", timeout=60).json()
        assert told["gate"]["reason"] == "Published: it is the first version."


@pytest.fixture(scope="module")
def idle(pool: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("idle")
    with running_server(pool[0], model_dir=folder / "model", labels=pool[2], conf=CONF) as url:
        yield url


@pytest.mark.parametrize("text", ["{", "[1]", '"a"', "nonsense"])
def test_parameters_that_are_no_json_object_are_told(idle: str, text: str) -> None:
    reply = requests.put(
        f"{idle}/datastore/label",
        params={"image": "x"},
        data={"params": text},
        files={"label": ("l.nii.gz", b"x")},
        timeout=60,
    )
    assert reply.status_code == 400
    assert "JSON" in reply.json()["detail"]
