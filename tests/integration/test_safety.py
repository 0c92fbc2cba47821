"""A running server that somebody tries to break: what held in process holds over HTTP, too."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from started import CONF, START_WITHIN_S, one_line, started

from uncol.demo.server import free_port, running_server
from uncol.server import listen
from uncol.storage.scratch import LOCK

pytestmark = [pytest.mark.integration, pytest.mark.slow]


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


def test_a_second_server_does_not_start_on_the_same_model_folder(
    safe: tuple[str, Path], fresh_studies: Path
) -> None:
    before = sorted(fresh_studies.rglob("*"))
    with started(fresh_studies, safe[1] / "model", "--port", str(free_port())) as (child, log):
        assert child.wait(timeout=START_WITHIN_S) != 0
    assert "uncol cannot start: The model folder" in one_line(log)
    assert "is in use by another server" in log.read_text()
    assert sorted(fresh_studies.rglob("*")) == before  # it does not open what it cannot work on


def wait_for(until: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.2)
