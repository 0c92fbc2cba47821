"""A server that does not come up is reported with the end of its log."""

import socket
import subprocess
import sys

import psutil
import pytest

from uncol.demo.server import _stop, _wait, free_port, running_server
from uncol.errors import UncolError


def test_the_end_of_the_log_is_shown(tmp_path):
    log = tmp_path / "server.log"
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-c", "raise SystemExit('no such app')"], stderr=stream
        )
    with pytest.raises(UncolError, match=r"did not come up at .*\n.*no such app"):
        _wait(child, f"http://127.0.0.1:{free_port()}", log)


def test_a_server_that_somebody_else_ended_is_not_left_as_running() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = psutil.Process(child.pid)
    process.kill()
    process.wait()
    _stop(child)
    assert child.returncode is not None
    child.stdin.close()


def test_another_program_on_the_port_is_not_taken_for_the_server(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(UncolError, match=f"Port {port} is taken"),
            running_server(tmp_path, model_dir=tmp_path / "model", port=port),
        ):
            pass
