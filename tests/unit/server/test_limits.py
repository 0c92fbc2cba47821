import asyncio
import subprocess
import sys

import pytest
from fastapi import FastAPI, HTTPException, UploadFile
from fastapi.testclient import TestClient

from uncol.server import limits
from uncol.server.limits import MIB, UploadLimit


@pytest.fixture
def client():
    api = FastAPI()
    kept = []

    @api.put("/label")
    def save(label: UploadFile) -> int:
        kept.append(label.file.read())
        return len(kept[-1])

    api.add_middleware(UploadLimit, limit_mb=1)
    made = TestClient(api)
    made.kept = kept
    return made


def test_what_fits_passes(client):
    assert client.put("/label", files={"label": b"x" * 1000}).json() == 1000


def test_an_announced_large_upload_is_refused_with_the_remedy(client):
    reply = client.put("/label", files={"label": b"x" * (MIB + 1)})
    assert reply.status_code == 413
    assert "max_upload_mb" in reply.json()["detail"]
    assert not client.kept


def test_one_that_comes_in_pieces_is_refused_too(client):
    def pieces():
        yield b'--x\r\nContent-Disposition: form-data; name="label"; filename="l"\r\n\r\n'
        for _ in range(20):
            yield b"x" * (MIB // 10)
        yield b"\r\n--x--\r\n"

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = client.put("/label", content=pieces(), headers=kind)
    assert reply.status_code == 413
    assert not client.kept


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has such heaps")
def test_eight_threads_share_two_heaps():
    program = """
import ctypes, threading
from uncol.server.limits import share_heaps
share_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(8)

def take():
    together.wait()
    taken = [libc.malloc(1000) for _ in range(100)]
    together.wait()

threads = [threading.Thread(target=take) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.malloc_stats()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert 1 <= done.stderr.count("Arena ") <= 2  # without it there are nine


def test_uploads_that_arrive_together_are_bounded_together():
    async def scenario() -> list[int]:
        gate = asyncio.Event()
        answers: list[int] = []

        async def app(scope, receive, send):
            await receive()
            await gate.wait()

        limit = UploadLimit(app, limit_mb=1)

        async def upload() -> None:
            async def receive():
                return {"type": "http.request", "body": b"x" * (MIB - 1), "more_body": False}

            try:
                await limit({"type": "http", "headers": []}, receive, None)
                answers.append(200)
            except HTTPException as error:
                answers.append(error.status_code)

        uploads = [asyncio.create_task(upload()) for _ in range(4)]
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(*uploads)
        await upload()  # and afterwards there is room again
        return answers

    assert sorted(asyncio.run(scenario())) == [200, 200, 200, 503, 503]


def test_an_upload_that_stops_arriving_is_given_up(monkeypatch):
    monkeypatch.setattr(limits, "NEXT_PART_WITHIN_S", 0.05)

    async def scenario() -> int:
        async def app(scope, receive, send):
            await receive()

        async def receive():
            await asyncio.sleep(10)

        try:
            await UploadLimit(app, limit_mb=1)({"type": "http", "headers": []}, receive, None)
        except HTTPException as error:
            return error.status_code
        return 200

    assert asyncio.run(scenario()) == 408
