import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from uncol.server.attendance import Attendance, Attending


@pytest.fixture
def attendance():
    made = Attendance()
    made._last -= 1000.0
    return made


@pytest.fixture
def client(attendance):
    api = FastAPI()
    api.add_middleware(Attending, attendance=attendance)
    return TestClient(api)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/infer/uncol"),
        ("PUT", "/datastore/label"),
        ("POST", "/activelearning/random"),
        ("POST", "/train/uncol"),
        ("GET", "/datastore/image"),
        ("GET", "/proxy/dicom/qido/studies"),
        ("GET", "/ohif/viewer"),
    ],
)
def test_work_is_noted(client, attendance, method, path):
    assert attendance.idle_s() > 999
    client.request(method, path)
    assert attendance.idle_s() < 10


@pytest.mark.parametrize(
    "path", ["/", "/info/", "/train/?check_if_running=true", "/scoring/", "/logs/", "/batch/infer/"]
)
def test_who_only_looks_how_far_it_is_does_not_work(client, attendance, path):
    client.get(path)
    assert attendance.idle_s() > 999


def test_a_request_that_takes_long_is_work_to_its_end(attendance):
    with attendance.request():
        attendance._last -= 1000.0
        assert attendance.idle_s() == 0
    assert attendance.idle_s() < 10
