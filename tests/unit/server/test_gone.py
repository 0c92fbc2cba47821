"""A client that leaves before its answer: what computes for it stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from tests.unit.server.conftest import served

from uncol.errors import NoLongerWantedError
from uncol.server.access import Access
from uncol.wanted import check_wanted

LONGEST_S = 60.0


class Slow:
    """An infer that would take a minute, and notes how it ended."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ended = threading.Event()
        self.stopped = False

    def __call__(self, work: Any) -> Any:
        self.began.set()
        end = time.monotonic() + LONGEST_S
        try:
            while time.monotonic() < end:
                check_wanted()
                time.sleep(0.01)
        except NoLongerWantedError:
            self.stopped = True
            raise
        finally:
            self.ended.set()


@pytest.fixture
def slow(app: Any, monkeypatch: pytest.MonkeyPatch) -> Slow:
    task = Slow()
    monkeypatch.setitem(app._infers, "uncol", task)
    return task


@pytest.fixture
def url(app: Any, tmp_path: Any) -> Iterator[str]:
    """The application behind a real HTTP server; a test client never leaves."""
    api = served(app, Access(None), tmp_path)
    config = uvicorn.Config(api, host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_a_client_that_leaves_lets_the_next_one_in(url: str, slow: Slow) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{url}/infer/uncol",
            params={"image": "one"},
            headers={"host": "testserver"},
            timeout=1.0,
        )
    assert slow.began.is_set()
    assert slow.ended.wait(LONGEST_S / 2)
    assert slow.stopped


def test_a_batch_that_is_stopped_does_not_finish_its_scan(app: Any, slow: Slow) -> None:
    job = app.desk.start_batch("uncol", "all", {"save_label": False})
    assert slow.began.wait(LONGEST_S / 2)
    job.over.set()
    assert slow.ended.wait(LONGEST_S / 2)
    assert slow.stopped
