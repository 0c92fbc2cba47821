"""A server that does not come up is reported with the end of its log."""

import subprocess
import sys

import pytest

from uncol.demo.server import _wait, free_port
from uncol.errors import UncolError


def test_the_end_of_the_log_is_shown(tmp_path):
    log = tmp_path / "server.log"
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-c", "raise SystemExit('no such app')"], stderr=stream
        )
    with pytest.raises(UncolError, match=r"did not come up at .*\n.*no such app"):
        _wait(child, f"http://127.0.0.1:{free_port()}", log)
