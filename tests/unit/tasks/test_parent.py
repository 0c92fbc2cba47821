"""A child ends with its parent, however early that ends."""

import os
import subprocess
import sys
import time

import psutil

from uncol.settings import REPOSITORY

ENV = {**os.environ, "PYTHONPATH": str(REPOSITORY / "lib")}
CHILD = "import sys; from uncol.tasks.parent import end_with; end_with(int(sys.argv[1]))\n"
WAITING = CHILD + "print('up', flush=True); input()"
SERVER = (
    "import os, subprocess, sys, time\n"
    "p = subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())],"
    " stdin=subprocess.PIPE)\n"
    "print(p.pid, flush=True)\ntime.sleep(60)"
)


def test_a_halted_child_dies_with_the_server_that_started_it() -> None:
    started = subprocess.Popen(
        [sys.executable, "-c", SERVER.format(child=WAITING)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENV,
    )
    process = psutil.Process(int(started.stdout.readline()))
    assert started.stdout.readline() == "up\n"
    process.suspend()
    started.kill()
    started.communicate()  # closes its pipe, too
    psutil.wait_procs([process], timeout=10)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WAITING, str(gone.pid)], env=ENV, check=False, capture_output=True
    )
    assert done.returncode == -9
    assert b"up" not in done.stdout
    assert time.monotonic() - start < 20


def test_watching_the_parent_loads_nothing_heavy() -> None:
    code = "import sys, uncol.tasks.parent; print({'torch', 'monai', 'numpy'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENV, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()"
