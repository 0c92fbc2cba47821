"""Ordinary and odd starts of the server: one clear line each, and nothing else is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
import requests
from started import START_WITHIN_S, one_line, started, up

from uncol.demo.server import free_port, running_server
from uncol.errors import UncolError

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_a_server_without_login_is_for_this_machine_alone(
    fresh_studies: Path, tmp_path: Path
) -> None:
    port = free_port()
    with started(fresh_studies, tmp_path / "model", "--port", str(port)) as (child, log):
        up(port)
        listening = {
            one.laddr.ip
            for one in psutil.Process(child.pid).net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port
        }
        assert listening == {"127.0.0.1"}
        assert "Only programs on this machine" in log.read_text()
        # a port that is taken
        other = started(fresh_studies, tmp_path / "other", "--port", str(port))
        with other as (second, told):
            assert second.wait(timeout=START_WITHIN_S) != 0
        assert f"process {child.pid}" in one_line(told)


def test_a_folder_that_does_not_exist_is_said_and_not_made(tmp_path: Path) -> None:
    with started(tmp_path / "typo" / "scans", tmp_path / "model") as (child, log):
        assert child.wait(timeout=START_WITHIN_S) != 0
    assert "There is no folder" in one_line(log)
    assert not (tmp_path / "typo" / "scans").exists()


def test_all_wrong_settings_are_said_and_nothing_else(fresh_studies: Path, tmp_path: Path) -> None:
    conf = {"presett": "auto", "preset": "huge", "teacher": "sam9", "mode": "fast"}
    conf |= {"models": "deepedit"}  # a setting of other apps is only noted
    log = tmp_path / "server.log"
    with (
        pytest.raises(UncolError, match="did not come up") as error,
        running_server(fresh_studies, model_dir=tmp_path / "m", labels="a,a", conf=conf, log=log),
    ):
        pass
    assert "Mistakes in the settings" in one_line(log)
    for text in (log.read_text(), str(error.value)):
        assert "did you mean 'preset'" in text
        assert "'sam9' is not one of" in text
        assert "'fast' is not one of" in text
        assert "'huge' is not one of" in text
        assert "a name appears twice" in text


def test_a_child_does_not_outlive_a_server_killed_at_once(
    pool: tuple[Path, Path, str], fresh_studies: Path, tmp_path: Path
) -> None:
    final = fresh_studies / "labels" / "final"
    final.mkdir(parents=True, exist_ok=True)
    for path in sorted(pool[1].glob("*.nii.gz"))[:3]:
        shutil.copy(path, final / path.name)
    port = free_port()
    conf = {"labels": pool[2]}
    arguments = ("--port", str(port))
    with started(fresh_studies, tmp_path / "model", *arguments, conf=conf) as (child, _):
        up(port)
        reply = requests.post(f"http://127.0.0.1:{port}/train/uncol", json={}, timeout=60)
        assert reply.ok, reply.text
        server = psutil.Process(child.pid)
        end = time.monotonic() + 20
        while not (children := server.children()):
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


def test_a_name_that_is_not_utf8_is_left_out_and_nothing_else(
    fresh_studies: Path, tmp_path: Path
) -> None:
    first = next(fresh_studies.glob("*.nii.gz"))
    before = len(list(fresh_studies.glob("*.nii.gz")))
    os.rename(first, os.fsencode(str(fresh_studies)) + b"/M\xfcller.nii.gz")
    for _ in range(2):  # and the next start is none the wiser
        port = free_port()
        with started(fresh_studies, tmp_path / "model", "--port", str(port)) as (_, log):
            up(port)
            url = f"http://127.0.0.1:{port}"
            told = requests.get(f"{url}/datastore/?output=all", timeout=60).json()
            assert len(told["objects"]) == before - 1
            assert "ller" in log.read_text()
            assert requests.post(f"{url}/activelearning/first", json={}, timeout=60).json()["id"]


def test_odd_notes_do_not_stop_the_next_start(fresh_studies: Path, tmp_path: Path) -> None:
    case = next(fresh_studies.glob("*.nii.gz")).name.removesuffix(".nii.gz")
    deep = "[" * 250 + "]" * 250
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    for number in range(2):
        with started(fresh_studies, tmp_path / "model", "--port", str(port)):
            up(port)
            if number:
                break
            headers = {"Content-Type": "application/json"}
            asked = [
                requests.post(
                    f"{url}/activelearning/first",
                    data='{"client_id": "\\ud800"}',
                    headers=headers,
                    timeout=60,
                ),
                *(
                    requests.put(
                        f"{url}/datastore/image/info",
                        params={"image": case},
                        data={"info": info},
                        timeout=60,
                    )
                    for info in (f'{{"x": {deep}}}', '{"x": NaN}', '{"x": "\\ud800"}')
                ),
            ]
            assert [reply.status_code for reply in asked] == [400] * 4
            info = requests.get(f"{url}/datastore/image/info?image={case}", timeout=60)
            assert info.ok
            assert json.loads(info.text)
