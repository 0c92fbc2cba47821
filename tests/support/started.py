"""Servers started as a person would start them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests

from uncol.demo.server import APP

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


def one_line(log: Path) -> str:
    """What a person reads at the end; there is no trace before it."""
    text = log.read_text()
    assert "Traceback" not in text
    (line,) = [one for one in text.splitlines() if "uncol cannot start" in one]
    return line
