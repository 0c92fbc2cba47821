"""Who goes first on few cores: the annotator's request, then training, then scoring."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import psutil
from monailabel.utils.async_tasks.utils import processes

BACKGROUND = ("train", "scoring")


def make_way(niceness: int) -> None:
    """Lower this process's priority; only in a child, whose main thread does the work."""
    if threading.current_thread() is threading.main_thread():
        os.nice(niceness)


class Foreground:
    """While a request computes, training and scoring children stand still.

    Priorities alone do not do it: the threads of two processes that compute wait for each other's,
    and a first mask took three times as long beside a background survey at the lowest priority.
    """

    def __init__(self) -> None:
        """Start with nothing in the way."""
        self._guard = threading.Lock()
        self._requests = 0
        self._halted: list[psutil.Process] = []

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Halt the children until the last of the requests that run at once is done."""
        with self._guard:
            self._requests += 1
        try:
            with self._guard:
                if self._requests == 1:
                    self._halted += _halt()
            yield
        finally:
            with self._guard:
                self._requests -= 1
                if self._requests == 0:
                    for process in self._halted:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            process.resume()
                    self._halted = []


FOREGROUND = Foreground()  # of this process; only computing goes in it, never saving: a halted
# child may hold the lock of the datastore


def _halt() -> Iterator[psutil.Process]:
    for kind in BACKGROUND:
        for child in list(processes(kind).values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(child.pid)
                process.suspend()
                yield process
