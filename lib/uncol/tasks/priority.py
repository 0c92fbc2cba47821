"""Who goes first on few cores: the annotator's request, then training, then scoring."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import psutil

from uncol.errors import BusyError
from uncol.tasks.jobs import JOBS, Jobs, Kind
from uncol.wanted import check_wanted

BACKGROUND: tuple[Kind, ...] = ("train", "scoring", "idle")
MOST_WAITING = 16
LOOK_UP_S = 1.0  # how often a waiting request asks whether it is still wanted
SPELL_S = 15.0  # under a continuous stream of requests, children run every other 15 s


def make_way(niceness: int) -> None:
    """Lower the priority of a child; does nothing outside a process's main thread."""
    if threading.current_thread() is threading.main_thread():
        os.nice(niceness)


class Foreground:
    """While a request computes, training and scoring children stand still.

    Priorities alone do not suffice: the threads of two processes that compute wait for each other,
    and a first mask took three times as long beside a background survey at the lowest priority.
    """

    def __init__(self, jobs: Jobs, *, spell_s: float = SPELL_S) -> None:
        """Start with nothing in the way.

        Args:
            jobs: whose children stand still.
            spell_s: how long at most, under a continuous stream of requests.
        """
        self._jobs = jobs
        self._spell_s = spell_s
        self._guard = threading.Lock()
        self._requests = 0
        self._halted: list[psutil.Process] = []
        self._halted_at = 0.0
        self._shared_until = 0.0
        self._rest_until = 0.0

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Halt the children while any request runs.

        Under a continuous stream of requests, children run in every other spell, so that training
        does not starve; `computing` leaves them room in it.
        """
        with self._guard:
            self._requests += 1
            self._take_turns()
        try:
            yield
        finally:
            with self._guard:
                self._requests -= 1
                if self._requests == 0:
                    self._resume()
                else:
                    self._take_turns()

    @contextlib.contextmanager
    def computing(self, turns: Turns) -> Iterator[None]:
        """Compute as a request, when it is its turn.

        In the children's spell, the next request then waits as long as this one took: at their low
        priority, children would get almost nothing beside a continuous stream of requests.

        Raises:
            BusyError: too many wait already.
        """
        with self.request(), turns.mine():
            time.sleep(max(0.0, self._rest_until - time.monotonic()))
            start = time.monotonic()
            try:
                yield
            finally:
                end = time.monotonic()
                if end < self._shared_until:
                    self._rest_until = min(end + (end - start), self._shared_until)

    def _take_turns(self) -> None:
        now = time.monotonic()
        if self._halted and now - self._halted_at > self._spell_s:
            self._resume()
            self._shared_until = now + self._spell_s
        elif not self._halted and now > self._shared_until:
            self._halted_at = now
            self._halted += _halt(self._jobs)

    def _resume(self) -> None:
        for process in self._halted:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self._halted = []


class Turns:
    """Requests compute one at a time: two at once would only share the same cores and memory.

    Each waiting request holds one of the server's 40 worker threads, which others need.
    """

    def __init__(self, *, most: int = MOST_WAITING) -> None:
        """Let at most so many requests compute or wait; further ones are refused."""
        self._places = threading.BoundedSemaphore(most)
        self._one_at_a_time = threading.Lock()

    @contextlib.contextmanager
    def mine(self) -> Iterator[None]:
        """Wait for the turn. Read large files inside it, not before.

        Raises:
            BusyError: too many wait already.
            NoLongerWantedError: nobody waits for it any more.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError("The server is busy with many requests at once. Try again in a moment.")
        try:
            while not self._one_at_a_time.acquire(timeout=LOOK_UP_S):
                check_wanted()
            try:
                yield
            finally:
                self._one_at_a_time.release()
        finally:
            self._places.release()


# of this process; compute in it, but never save: a halted child may hold the datastore's lock
FOREGROUND = Foreground(JOBS)


def _halt(jobs: Jobs) -> Iterator[psutil.Process]:
    for kind in BACKGROUND:
        job = jobs.running(kind)
        if job is not None and job.process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                job.process.suspend()
                yield job.process
