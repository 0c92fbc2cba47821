"""A child ends with the process that started it. Loads nothing but the standard library."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOOK_EVERY_S = 1.0


def end_with(parent: int) -> None:
    """End this process at once when its parent ends; the first thing that a child does.

    A child that outlived a killed server, perhaps halted, could hold locks forever, and would train
    beside the next server's child.

    Args:
        parent: its process id, as the parent gave it: it may have ended before this line runs.
    """
    with contextlib.suppress(AttributeError, OSError):  # only Linux has it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    _look(parent)
    threading.Thread(target=_keep_looking, args=(parent,), name="parent", daemon=True).start()


def _keep_looking(parent: int) -> None:
    while True:
        time.sleep(LOOK_EVERY_S)
        _look(parent)


def _look(parent: int) -> None:
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
