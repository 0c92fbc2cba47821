"""Jobs in real child processes."""

import os
import sys
import time

import pytest

from uncol.settings import REPOSITORY
from uncol.tasks.jobs import LINES_KEPT, Jobs

ANSWER = (
    "import json, sys; order = json.load(sys.stdin);"
    "print('one'); print('two'); open(order['answer'], 'w').write('{\"dice\": 0.5}')"
)
SLEEP = "import sys, time; print('up', flush=True); time.sleep(60)"


def run(code: str) -> Jobs:
    return Jobs((sys.executable, "-c", code))


def finished(job):
    assert job.over.wait(30)
    return job


def test_a_child_gives_its_result_and_its_last_lines() -> None:
    job = finished(run(ANSWER).start("scoring", {"method": "dice"}))
    assert (job.status, job.result) == ("DONE", {"dice": 0.5})
    assert list(job.details) == ["one", "two"]
    assert job.shown()["request"] == {"method": "dice"}


def test_one_that_cannot_be_started_is_an_error_that_the_next_can_follow() -> None:
    jobs = Jobs(("/no/such/program",))
    job = finished(jobs.start("train", {}))
    assert job.status == "ERROR"
    assert "could not be done" in job.details[-1]
    assert not jobs.under_way("train")
    jobs._command = (sys.executable, "-c", ANSWER)
    assert finished(jobs.start("train", {})).status == "DONE"


def test_a_long_request_is_no_trouble() -> None:
    job = finished(run(ANSWER).start("train", {"note": "A" * 500_000}))
    assert job.status == "DONE"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "memory ran out"),
        ("raise SystemExit(3)", "code 3"),
        ("print('last words'); raise SystemExit(1)", "last words"),
        ("pass", "could not be done"),  # it said all was well and left no result
    ],
)
def test_one_that_fails_says_how(code: str, words: str) -> None:
    job = finished(run(code).start("scoring", {}))
    assert job.status == "ERROR"
    assert words in job.details[-1]


def test_a_trace_is_not_shown_to_clients() -> None:
    job = finished(run("print('reading'); 1 / 0").start("scoring", {}))
    assert job.status == "ERROR"
    assert not any("Traceback" in line or "File" in line for line in job.details)


def test_stopping_ends_the_child_and_those_that_wait() -> None:
    jobs = run(SLEEP)
    first, second = jobs.start("train", {}), jobs.start("train", {})
    while not first.details:
        time.sleep(0.02)
    process = first.process
    assert jobs.running("train") is first
    assert jobs.stop("train") is first
    assert (first.status, second.status) == ("STOPPED", "STOPPED")
    process.wait(timeout=10)
    assert jobs.stop("train") is None
    jobs._command = (sys.executable, "-c", ANSWER)
    assert finished(jobs.start("train", {})).status == "DONE"


def test_stopping_at_any_moment_leaves_nothing_running() -> None:
    jobs = run(SLEEP)
    for wait in (0, 0.01, 0.03, 0.06, 0.1):
        job = jobs.start("train", {})
        time.sleep(wait)
        jobs.stop("train")
        assert job.status == "STOPPED"
    time.sleep(1)
    assert not any(one.process.is_running() for one in jobs.all("train") if one.process)


def test_work_in_a_thread_is_a_job_like_others() -> None:
    jobs = Jobs()
    job = finished(jobs.start("batch_infer", {}, lambda one: one.details.append("x") or {"a": 1}))
    assert (job.status, job.result, list(job.details)) == ("DONE", {"a": 1}, ["x"])
    failed = finished(jobs.start("batch_infer", {}, lambda _one: 1 / 0))
    assert failed.status == "ERROR"


def test_only_the_last_lines_are_kept() -> None:
    job = finished(run(f"for n in range({LINES_KEPT + 5}): print(n)").start("train", {}))
    assert len(job.details) == LINES_KEPT


def test_the_real_child_refuses_an_order_that_is_none() -> None:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "lib")}
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "uncol.tasks.child", str(os.getpid())],
        input="{}",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "kind" in done.stderr


def test_a_process_that_ends_does_not_wait_for_its_jobs() -> None:
    import subprocess

    import psutil

    code = (
        "import sys, time\n"
        f"sys.path.insert(0, {str(REPOSITORY / 'lib')!r})\n"
        "from uncol.tasks.jobs import Jobs\n"
        f"jobs = Jobs((sys.executable, '-c', {SLEEP!r}))\n"
        "job = jobs.start('train', {})\n"
        "while not job.details: time.sleep(0.02)\n"
        "print(job.process.pid, flush=True)\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50
    )
    assert time.monotonic() - start < 40
    child = int(done.stdout.split()[-1])
    if psutil.pid_exists(child):  # this one watches nobody
        psutil.Process(child).kill()
