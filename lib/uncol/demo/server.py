"""Start the real server as a child, wait until it answers, stop it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests

from uncol.errors import UncolError
from uncol.settings import REPOSITORY

APP = REPOSITORY / "apps" / "uncol"
SERVER_WAIT_S = 180
SHOWN_LINES = 25


@contextmanager
def running_server(
    studies: Path | str,
    *,
    model_dir: Path,
    labels: str | None = None,
    conf: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
    log: Path | None = None,
) -> Iterator[str]:
    """Run `monailabel start_server --app apps/uncol`, yield its address, stop it at the end.

    Args:
        studies: studies folder or DICOMweb address.
        model_dir: where versions go.
        labels: the `labels` setting, if any.
        conf: further `--conf` pairs.
        env: further environment variables.
        port: a port, or None for a free one.
        log: where the server's output goes; `server.log` in `model_dir` if not given.

    Raises:
        UncolError: the port is taken, or the server did not come up; the message then has the end
            of its log.
    """
    free = free_port(port or 0)
    if port and free != port:
        raise UncolError(
            f"Port {port} is taken by another program. Stop it, or choose another port."
        )
    pairs = {**({"labels": labels} if labels else {}), **(conf or {}), "model_dir": str(model_dir)}
    model_dir.mkdir(parents=True, exist_ok=True)
    log = log or model_dir / "server.log"
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(APP)]
    command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(free)]
    for name, value in pairs.items():
        command += ["--conf", name, value]
    with log.open("wb") as stream:
        child = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{free}"
        _wait(child, url, log)
        yield url
    finally:
        _stop(child)


def free_port(preferred: int = 0) -> int:
    """Return a port that nobody listens on now, the preferred one if possible."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one just closed is free
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + SERVER_WAIT_S
    while time.monotonic() < end and child.poll() is None:
        try:
            if requests.get(f"{url}/info/", timeout=10).status_code < 500:
                return  # 401 where authentication is on
        except requests.RequestException:
            time.sleep(0.5)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-SHOWN_LINES:])
    raise UncolError(f"The server did not come up at {url}. The end of {log}:\n{tail}")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Stop the server and the training or scoring children it may have."""
    try:
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    except psutil.NoSuchProcess:  # somebody else ended it
        family = []
    for process in family:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(family, timeout=10)
    for process in alive:
        process.kill()
    child.wait()
