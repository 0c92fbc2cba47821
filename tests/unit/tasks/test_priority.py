import subprocess
import sys
import threading
import time

import psutil
import pytest

from uncol.errors import BusyError, NoLongerWantedError
from uncol.tasks.jobs import Job, Jobs
from uncol.tasks.priority import Foreground, Turns
from uncol.wanted import wanted_until

COUNT = "import sys\nwhile True: sys.stdout.write('.'); sys.stdout.flush()"


@pytest.fixture
def jobs():
    return Jobs()


@pytest.fixture
def child(jobs):
    """A real child process that is a running scoring."""
    process = subprocess.Popen([sys.executable, "-c", COUNT], stdout=subprocess.DEVNULL)
    job = Job("scoring", {}, status="RUNNING", process=psutil.Process(process.pid))
    jobs._jobs["scoring"] = [job]
    yield job.process
    process.kill()
    process.wait()


class Clock:
    """Time that passes only where a test says so, in place of the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("uncol.tasks.priority.time", clock)
    return clock


def works(process: psutil.Process) -> bool:
    """Whether it computes rather than stands still, as soon as either shows.

    A signal takes a moment to arrive, longer on a busy machine.
    """
    before = sum(process.cpu_times()[:2])
    for _ in range(500):
        time.sleep(0.02)
        if process.status() == psutil.STATUS_STOPPED:
            return False
        if sum(process.cpu_times()[:2]) > before + 0.05:
            return True
    raise AssertionError(f"{process} neither computes nor stands still")


def test_children_stand_still_until_the_last_request_is_done(child, jobs) -> None:
    foreground = Foreground(jobs)
    assert works(child)
    with foreground.request():
        assert not works(child)
        with foreground.request():
            assert not works(child)
        assert not works(child)
    assert works(child)


def test_a_failed_request_lets_them_go_on(child, jobs) -> None:
    with pytest.raises(ValueError, match="no"), Foreground(jobs).request():
        raise ValueError("no")
    assert works(child)


def test_a_child_that_ended_meanwhile_is_no_trouble(child, jobs) -> None:
    foreground = Foreground(jobs)
    with foreground.request():
        child.kill()
        psutil.wait_procs([child], timeout=5)
    with foreground.request():
        pass


def test_without_children_nothing_happens(jobs) -> None:
    with Foreground(jobs).request():
        pass


def test_where_requests_never_end_children_get_every_second_spell(child, jobs, clock) -> None:
    foreground = Foreground(jobs, spell_s=15)
    with foreground.request():
        assert not works(child)
        clock.sleep(16)
        with foreground.request():
            assert works(child)
        clock.sleep(16)
        with foreground.request():
            assert not works(child)
    assert works(child)


def test_in_their_spell_children_are_left_alone_as_long_as_a_request_took(
    child, jobs, clock
) -> None:
    foreground, turns = Foreground(jobs, spell_s=15), Turns()
    with foreground.request():  # of another client, without a gap
        clock.sleep(16)
        with foreground.computing(turns):  # ends the requests' spell
            clock.sleep(3)
        start = clock.now
        with foreground.computing(turns):
            assert clock.now - start == 3
    clock.sleep(16)
    start = clock.now
    with foreground.computing(turns):
        clock.sleep(3)
    with foreground.computing(turns):
        assert clock.now - start == 3  # alone, nobody waits


def test_requests_compute_one_at_a_time_and_few_may_wait() -> None:
    turns, inside, most = Turns(most=3), [], []
    go = threading.Event()

    def compute() -> None:
        with turns.mine():
            inside.append(1)
            most.append(len(inside))
            go.wait(5)
            inside.pop()

    threads = [threading.Thread(target=compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    while turns._places._value:  # all three have a place
        time.sleep(0.01)
    with pytest.raises(BusyError, match="busy"), turns.mine():
        pass
    go.set()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    with turns.mine():
        pass


def test_who_has_gone_waits_no_longer_and_leaves_the_place(monkeypatch):
    monkeypatch.setattr("uncol.tasks.priority.LOOK_UP_S", 0.01)
    turns = Turns(most=2)
    for _ in range(3):
        with (
            turns.mine(),
            wanted_until(lambda: True),
            pytest.raises(NoLongerWantedError),
            turns.mine(),
        ):
            pytest.fail("the turn was another's")
    with turns.mine():
        pass
