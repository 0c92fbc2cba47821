import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from secure.middleware import SecureASGIMiddleware

from uncol.server.browsers import Allowed, SameOrigin, page_headers


@pytest.fixture
def client():
    api = FastAPI()

    @api.api_route("/x", methods=["GET", "PUT", "POST", "DELETE"])
    def answer() -> str:
        return "done"

    allowed = Allowed({"label.hospital.org"}, {"https://viewer.hospital.org"})
    api.add_middleware(SameOrigin, allowed=allowed)
    api.add_middleware(SecureASGIMiddleware, secure=page_headers())
    return TestClient(api, base_url="http://label.hospital.org")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000", "10.1.2.3", "label.hospital.org"],
)
def test_known_names_and_addresses_are_answered(client, host) -> None:
    assert client.get("/x", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "", "127.0.0.1.evil.example", "x@localhost.evil", "[::1"]
)
def test_a_name_that_somebody_points_here_is_not(client, host) -> None:
    reply = client.get("/x", headers={"Host": host})
    assert reply.status_code == 403
    assert "allowed_hosts" in reply.json()["detail"]


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:1", "https://label.hospital.org.evil"],
)
def test_a_foreign_page_neither_reads_nor_changes(client, method, origin) -> None:
    reply = client.request(method, "/x", headers={"Origin": origin})
    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    "origin",
    ["http://label.hospital.org", "https://label.hospital.org", "https://viewer.hospital.org"],
)
def test_own_and_known_pages_may(client, origin) -> None:
    assert client.post("/x", headers={"Origin": origin}).status_code == 200


def test_a_form_of_another_site_is_refused_without_an_origin_too(client) -> None:
    for site in ("cross-site", "same-site"):
        assert client.post("/x", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert client.post("/x", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_programs_are_not_browsers(client) -> None:
    assert client.delete("/x").status_code == 200


def test_pages_say_what_browsers_must_not_do(client) -> None:
    headers = client.get("/x").headers
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
