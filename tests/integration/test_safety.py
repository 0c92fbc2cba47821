"""A running server that somebody tries to break: what held in process holds over HTTP, too."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from uncol.demo.server import APP, free_port, running_server
from uncol.errors import UncolError
from uncol.server import listen
from uncol.storage.scratch import LOCK

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CONF = {"preset": "tiny3d", "teacher": "none", "max_upload_mb": "64"}
START_WITHIN_S = 120


@contextmanager
def started(
    studies: Path, model: Path, *arguments: str, conf: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start a server as a person would, without `--host`; yield it and its log."""
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(APP)]
    command += ["--studies", str(studies), *arguments]
    for pair in {**CONF, "labels": "a", "model_dir": str(model), **(conf or {})}.items():
        command += ["--conf", *pair]
    log = model.with_name(f"{model.name}-{time.monotonic_ns()}.log")
    with log.open("w") as stream:
        child = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
    try:
        yield child, log
    finally:
        if child.poll() is None:
            server = psutil.Process(child.pid)
            for one in [server, *server.children(recursive=True)]:
                one.kill()
        child.wait()


def up(port: int) -> None:
    end = time.monotonic() + START_WITHIN_S
    while True:
        try:
            if requests.get(f"http://127.0.0.1:{port}/info/", timeout=5).ok:
                return
        except requests.RequestException:
            assert time.monotonic() < end
            time.sleep(0.3)


@pytest.fixture(scope="module")
def safe(
    pool: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("safe")
    shutil.copytree(pool[0], folder / "studies")
    (folder / "tmp").mkdir()
    with running_server(
        folder / "studies",
        model_dir=folder / "model",
        labels=pool[2],
        conf=CONF,
        env={"TMPDIR": str(folder / "tmp"), "MONAI_LABEL_SESSION_PATH": str(folder / "sessions")},
    ) as url:
        yield url, folder


def test_a_client_names_no_code_to_run(safe: tuple[str, Path]) -> None:
    url, folder = safe
    mark = folder / "mark"
    code = f"open({str(mark)!r}, 'w').write('x')"
    files = [("files", ("sitecustomize.py", code)), ("files", ("other.txt", "x"))]
    session = requests.put(f"{url}/session/", files=files, timeout=60).json()
    assert "path" not in session["session_info"]
    content = str(folder / "sessions" / "uncol" / session["session_id"] / "content")
    assert Path(content, "sitecustomize.py").exists()
    for path in ("/scoring/dice", "/train/uncol", "/batch/infer/uncol"):
        reply = requests.post(f"{url}{path}", json={"bundle_path": content}, timeout=60)
        assert reply.status_code == 400
        assert "bundle_path" in reply.json()["detail"]
    # and no child imports what lies in its folders
    requests.post(f"{url}/scoring/dice?run_sync=true", json={}, timeout=120)
    assert not mark.exists()


def test_a_foreign_page_in_a_browser_gets_nothing(
    safe: tuple[str, Path], need_chromium: str, tmp_path: Path
) -> None:
    url, _ = safe
    page = """<html><body><script>(async () => {
        let told = [];
        for (const [method, path] of [["GET", "/datastore/?output=all"], ["PUT", "/session/"],
                                      ["POST", "/scoring/dice"], ["DELETE", "/datastore/image"]]) {
          try { told.push((await fetch("SERVER" + path, {method})).status); }
          catch (error) { told.push("kept out"); }
        }
        fetch("/done?" + encodeURIComponent(told.join(",")));
        })()</script></body></html>""".replace("SERVER", url)
    told: list[str] = []

    class Evil(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            if self.path.startswith("/done"):
                told.append(requests.utils.unquote(self.path))
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = subprocess.Popen(
        [
            *(need_chromium, "--headless", "--no-sandbox", "--disable-gpu"),
            f"--user-data-dir={tmp_path}",
            "--host-resolver-rules=MAP evil.example 127.0.0.1",
            f"http://evil.example:{server.server_address[1]}/",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 60
        while not told:
            assert time.monotonic() < end, "the page said nothing"
            time.sleep(0.2)
    finally:
        browser.terminate()
        browser.wait()
        server.shutdown()
        server.server_close()
    assert told[0] == "/done?" + ",".join(["kept out"] * 4)


@pytest.fixture(scope="module")
def need_chromium() -> str:
    program = shutil.which("chromium")
    if program is None and os.environ.get("UNCOL_TEST_ALL"):
        pytest.fail("Not installed: chromium")
    if program is None:
        pytest.skip("Not installed: chromium")
    return program


def test_nothing_is_left_lying_about(safe: tuple[str, Path]) -> None:
    url, folder = safe
    temporary = folder / "tmp"
    junk = ("l.nii.gz", b"\0" * 100_000)
    for method, path, files in (
        ("PUT", "/datastore/label?image=nobody", {"label": junk}),
        ("PUT", "/datastore/image?image=new", {"file": junk}),
        ("POST", "/infer/uncol", {"file": junk}),
        ("PUT", "/session/?uncompress=true", {"files": ("x.zip", b"junk")}),
    ):
        assert requests.request(method, f"{url}{path}", files=files, timeout=60).status_code == 400
    # a client that goes away in the middle of an upload
    port = int(url.rsplit(":", 1)[1])
    for cut in (10, 50_000):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(
                b"PUT /datastore/label?image=x HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n"
                b'--b\r\nContent-Disposition: form-data; name="label"; filename="l.nii"\r\n\r\n'
                + b"x"
                * cut
            )
    time.sleep(1)
    left = [path for path in temporary.rglob("*") if path.is_file() and path.name != LOCK]
    assert left == []
    for path in temporary.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_headers_that_never_end_are_not_waited_for(
    safe: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = safe
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
        client.sendall(b"GET /info/ HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        client.settimeout(listen.HEADERS_WITHIN_S + 20)
        start = time.monotonic()
        while client.recv(1000):
            pass
    assert time.monotonic() - start < listen.HEADERS_WITHIN_S + 10
    assert requests.get(f"{url}/info/", timeout=30).ok


def test_a_second_server_does_not_start_on_the_same_model_folder(safe: tuple[str, Path]) -> None:
    _, folder = safe
    with started(folder / "studies", folder / "model", "--port", str(free_port())) as (child, log):
        assert child.wait(timeout=START_WITHIN_S) != 0
    assert "uncol cannot start: The model folder" in log.read_text()
    assert "is in use by another server" in log.read_text()


def one_line(log: Path) -> str:
    """What a person reads at the end; there is no trace before it."""
    text = log.read_text()
    assert "Traceback" not in text
    (line,) = [one for one in text.splitlines() if "uncol cannot start" in one]
    return line


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


def wait_for(until: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.2)


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
