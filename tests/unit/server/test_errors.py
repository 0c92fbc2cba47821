from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from uncol.errors import RequestError
from uncol.server.answers import Answer
from uncol.server.errors import UnexpectedErrors, answer_errors
from uncol.server.places import Places

PLACES = Places([("studies folder", Path("/srv/my studies")), ("model folder", Path("/srv/m"))])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("damaged (/srv/my studies/a.nii.gz): x", "damaged (studies folder/a.nii.gz): x"),
        ("in /tmp/uncol-0/12-x/request-1/upload.nii.gz.", "in upload.nii.gz."),
        ("No such file: '/usr/lib/python3.11/site-packages/x.py'", "No such file: 'x.py'"),
        ("at http://127.0.0.1:8042/dicom-web", "at http://127.0.0.1:8042/dicom-web"),
        ("see /uncol/models/ (list)", "see /uncol/models/ (list)"),
        ("1/2 of a/b", "1/2 of a/b"),
    ],
)
def test_paths_of_the_server_are_hidden_and_nothing_else(text, shown) -> None:
    assert PLACES.hide(text) == shown


@pytest.fixture
def client():
    api = FastAPI(default_response_class=Answer)

    @api.get("/known")
    def known() -> None:
        raise RequestError("The file /srv/m/uncol/current is odd.")

    @api.get("/unknown")
    def unknown() -> None:
        raise KeyError("/etc/secret")

    @api.get("/number/{value}")
    def number(value: int) -> Answer:
        return Answer({"value": float("nan"), "text": "\ud800", "n": value})

    answer_errors(api, PLACES)
    api.add_middleware(UnexpectedErrors)
    return TestClient(api)


def test_what_is_known_is_said(client) -> None:
    reply = client.get("/known")
    assert reply.status_code == 400
    assert reply.json()["detail"] == "The file model folder/uncol/current is odd."


def test_what_nobody_foresaw_has_a_number_that_stands_in_the_log(client, caplog) -> None:
    reply = client.get("/unknown")
    assert reply.status_code == 500
    text = reply.json()["detail"]
    assert "secret" not in text
    number = text.split("error ")[1].split(")")[0]
    assert number in caplog.text
    assert "KeyError" in caplog.text


def test_odd_values_are_answered_as_json(client) -> None:
    assert client.get("/number/3").json() == {"value": None, "text": "?", "n": 3}


def test_a_wrong_parameter_is_named(client) -> None:
    reply = client.get("/number/x")
    assert reply.status_code == 422
    assert "'value'" in reply.json()["detail"]
