"""The DICOMweb proxy beside a PACS that misbehaves: a stand-in, since a real one does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import psutil
import pytest
import requests

from uncol.demo.server import running_server

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MIB = 2**20
LARGE = 200  # MiB


class BadPacs(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []
    elsewhere = ""

    def log_message(self, *_: object) -> None:
        return

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        BadPacs.asked.append(self.path)
        if "/hang" in self.path:
            time.sleep(60)
        elif "/away" in self.path:
            self.send(302, b"", Location=BadPacs.elsewhere)
        elif "/large" in self.path:
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(LARGE * MIB))
            self.end_headers()
            try:
                for _ in range(LARGE):
                    self.wfile.write(b"\0" * MIB)
            except OSError:
                return
        else:
            self.send(200, b"[]", **{"Content-Type": "application/dicom+json"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("bad_pacs")
    pacs = ThreadingHTTPServer(("127.0.0.1", 0), BadPacs)
    pacs.daemon_threads = True
    threading.Thread(target=pacs.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{pacs.server_address[1]}/dicom-web"
    env = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache")}
    conf = {"teacher": "none", "preset": "tiny3d"}
    model = folder / "model"
    with running_server(root, model_dir=model, labels="a", conf=conf, env=env) as url:
        yield url
    pacs.shutdown()
    pacs.server_close()


def test_a_hanging_pacs_stops_nothing_else(server: str) -> None:
    def hang() -> None:
        try:
            requests.get(f"{server}/proxy/dicom/wado/studies/1/hang", timeout=8)
        except requests.RequestException:
            return

    threads = [threading.Thread(target=hang) for _ in range(45)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    start = time.monotonic()
    assert requests.get(f"{server}/info/", timeout=30).ok
    assert requests.delete(f"{server}/train/", timeout=30).ok
    assert time.monotonic() - start < 6
    for thread in threads:
        thread.join()
    # those who gave up have left their places
    assert requests.get(f"{server}/proxy/dicom/qido/studies", timeout=30).json() == []


def test_large_answers_stream_through(server: str) -> None:
    port = int(server.rsplit(":", 1)[1])
    process = next(
        one
        for one in psutil.process_iter(["cmdline"])
        if {"start_server", str(port)} <= set(one.info["cmdline"] or [])
    )
    before, peak, done = process.memory_info().rss, 0, False
    sizes: list[int] = []

    def fetch() -> None:
        reply = requests.get(f"{server}/proxy/dicom/wado/studies/1/large", stream=True, timeout=120)
        sizes.append(sum(len(piece) for piece in reply.iter_content(MIB)))

    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.05)
    assert sizes == [LARGE * MIB] * 3
    assert peak - before < 150 * MIB  # held as a whole they would take four times that
    assert not done


def test_redirects_are_not_followed(server: str) -> None:
    secret = []

    class Secret(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            secret.append(self.path)
            self.send_response(200)
            self.end_headers()

    other = ThreadingHTTPServer(("127.0.0.1", 0), Secret)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    BadPacs.elsewhere = f"http://127.0.0.1:{other.server_address[1]}/secret"
    reply = requests.get(f"{server}/proxy/dicom/wado/studies/1/away", timeout=30)
    other.shutdown()
    other.server_close()
    assert reply.status_code == 502
    assert "not followed" in reply.json()["detail"]
    assert secret == []


@pytest.mark.parametrize(
    "path",
    [
        "%2e%2e/instances",
        "..%2finstances",
        "\\..\\..\\instances",
        "studies/%2e%2e/%2e%2e/instances",
        "x" * 9000,
        "a%00b",
        "%0d%0aX-A:b",
    ],
)
def test_odd_paths_never_leave_the_root(server: str, path: str) -> None:
    BadPacs.asked.clear()
    request = requests.Request("GET", server).prepare()
    request.url = f"{server}/proxy/dicom/wado/{path}"  # requests would tidy it up
    with requests.Session() as session:
        session.send(request, timeout=60, allow_redirects=False)
    through = [one for one in BadPacs.asked if "?" not in one]  # the server's own lists have one
    assert all(one.startswith("/dicom-web/") and ".." not in one for one in through)
