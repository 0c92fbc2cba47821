"""Work that outlasts a request: trainings and scorings in child processes, one of a kind at a time.

It stands in for MONAI Label's own starter of children, which puts a client's words into the child's
environment and command line, and leaves a child that could not be started SUBMITTED for ever.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, Literal

import psutil

import uncol
from uncol.tasks.child import ChildOrder

logger = logging.getLogger(__name__)

Kind = Literal["train", "scoring", "batch_infer", "idle"]
Status = Literal["SUBMITTED", "RUNNING", "DONE", "ERROR", "STOPPED"]
LINES_KEPT = 20
JOBS_KEPT = 100  # of each kind
CHILD = (sys.executable, "-m", "uncol.tasks.child")
KILLED = (
    "The process was killed by the system (signal {signal}), most likely because memory ran out. "
    "Close other programs or use a smaller preset, and try again."
)


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")


@dataclass
class Job:
    """One training, scoring or batch infer.

    Attributes:
        kind: which.
        request: its fields, as checked.
        id: a random name.
        status: how far it is; a job that ended is DONE, ERROR or STOPPED.
        started: when it was asked for, local time.
        ended: when it ended.
        details: its last lines.
        result: what it came to, once it is DONE.
        process: the child, while it runs.
        over: set when it has ended.
    """

    kind: Kind
    request: dict[str, Any]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: Status = "SUBMITTED"
    started: str = field(default_factory=_now)
    ended: str | None = None
    details: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))
    result: Any = None
    process: psutil.Process | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def shown(self) -> dict[str, Any]:
        """Return what clients see, in MONAI Label's keys."""
        shown: dict[str, Any] = {"id": self.id, "status": self.status, "request": self.request}
        shown["start_ts"] = self.started
        if self.status != "SUBMITTED":
            shown["details"] = list(self.details)
        if self.ended:
            shown["end_ts"] = self.ended
        return shown


Work = Callable[[Job], Any]


class Jobs:
    """All jobs of this server."""

    def __init__(self, command: Sequence[str] = CHILD) -> None:
        """Start with none.

        Args:
            command: starts a child; the parent's process id is added.
        """
        self._command = command
        self._guard = threading.Lock()
        self._jobs: dict[str, list[Job]] = {}
        self._waiting: dict[str, SimpleQueue[tuple[Job, Work]]] = {}

    def start(self, kind: Kind, request: dict[str, Any], work: Work | None = None) -> Job:
        """Start a job, or let it wait until those of its kind before it have ended.

        Args:
            kind: which.
            request: its fields, JSON.
            work: does it in a thread of this process; a child does it if not given.
        """
        job = Job(kind, request)
        with self._guard:
            self._jobs[kind] = [*self._jobs.get(kind, []), job][-JOBS_KEPT:]
            if kind not in self._waiting:
                self._waiting[kind] = SimpleQueue()
                # a server that is told to end does not wait for a training; its child ends with it
                one_by_one = threading.Thread(
                    target=self._run_all,
                    args=(self._waiting[kind],),
                    name=f"job-{kind}",
                    daemon=True,
                )
                one_by_one.start()
            self._waiting[kind].put((job, work or self._in_child))
        return job

    def all(self, kind: Kind) -> list[Job]:
        """Return the jobs of a kind, oldest first."""
        with self._guard:
            return list(self._jobs.get(kind, []))

    def last(self, kind: Kind) -> Job | None:
        """Return the youngest job of a kind."""
        return next(iter(self.all(kind)[::-1]), None)

    def running(self, kind: Kind) -> Job | None:
        """Return the job of a kind that runs now."""
        return next((job for job in self.all(kind) if job.status == "RUNNING"), None)

    def under_way(self, kind: Kind) -> bool:
        """Say whether a job of a kind waits or runs."""
        return any(not job.over.is_set() for job in self.all(kind))

    def stop(self, kind: Kind) -> Job | None:
        """Stop the running job of a kind and forget the waiting ones; return the stopped one."""
        with self._guard:
            live = [job for job in self._jobs.get(kind, []) if not job.over.is_set()]
            for job in live:
                _end(job, "STOPPED")
        for job in live:
            if job.process is not None:
                _kill(job.process)
        return next(iter(live), None)

    def _run_all(self, waiting: SimpleQueue[tuple[Job, Work]]) -> None:
        while True:
            self._run(*waiting.get())

    def _run(self, job: Job, work: Work) -> None:
        with self._guard:
            if job.over.is_set():  # stopped while it waited
                return
            job.status = "RUNNING"
        try:
            result = work(job)
        except Exception as error:  # whatever it was, the next job of the kind must be able to run
            logger.exception("%s %s", job.kind, job.id)
            self._fail(job, f"It could not be done: {error}")
            return
        with self._guard:
            if not job.over.is_set():
                job.result = result
                _end(job, "DONE")

    def _fail(self, job: Job, text: str) -> None:
        with self._guard:
            if not job.over.is_set():
                job.details.append(text)
                _end(job, "ERROR")

    def _in_child(self, job: Job) -> Any:
        with tempfile.TemporaryDirectory(prefix="uncol-job-") as folder:
            answer = Path(folder) / "answer.json"
            order = ChildOrder(kind=job.kind, request=job.request, answer=answer)
            code = self._supervise(job, order.model_dump_json())
            if code == 0:
                return json.loads(answer.read_text())
        if code < 0:
            self._fail(job, KILLED.format(signal=signal.Signals(-code).name))
        else:
            # its own last line says why, if it could still write one
            self._fail(job, job.details.pop() if job.details else f"It ended with code {code}.")
        return None

    def _supervise(self, job: Job, order: str) -> int:
        """Run the child to its end and return its exit code."""
        child = subprocess.Popen(
            [*self._command, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=_environment(),
        )
        assert child.stdin
        assert child.stdout
        assert child.stderr
        job.process = psutil.Process(child.pid)
        if job.over.is_set():  # stopped just now
            child.kill()
        log = logging.getLogger(f"uncol.{job.kind}")
        traces = threading.Thread(target=_pass_on, args=(child.stderr, log.warning), daemon=True)
        traces.start()
        with contextlib.suppress(OSError):  # it ended before it was told anything
            child.stdin.write(order)
            child.stdin.close()

        def keep(line: str) -> None:
            log.info("%s", line)
            job.details.append(line)

        _pass_on(child.stdout, keep)
        code = child.wait()
        traces.join(timeout=5)
        return code


def _environment() -> dict[str, str]:
    """Return a child's environment: it finds this very package, and watches no folder.

    Children read the pool as it was when they started; only the server writes it.
    """
    own = str(Path(uncol.__file__).resolve().parents[1])
    paths = [own, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "MONAI_LABEL_DATASTORE_AUTO_RELOAD": "false",
    }


def _pass_on(stream: IO[str], take: Callable[[str], object]) -> None:
    with stream:
        for line in stream:
            if line.rstrip():
                take(line.rstrip())


def _end(job: Job, status: Status) -> None:
    job.status, job.ended = status, _now()
    job.over.set()


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


JOBS = Jobs()  # of this process
