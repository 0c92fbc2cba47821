"""MONAI Label's authentication, switched on, against a stand-in for an OIDC realm."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from uncol.demo.server import running_server

pytestmark = pytest.mark.integration

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ROLES = {  # as a realm gives them: each role includes the lesser ones
    "ulla": ["user"],
    "anna": ["user", "annotator"],
    "alma": ["user", "annotator", "reviewer", "admin"],
}
PUBLIC = {"/auth/", "/auth/token"}  # what MONAI Label leaves open by design
UUID = "00000000-0000-0000-0000-000000000000"


class Realm(BaseHTTPRequestHandler):
    """Tokens for everybody who knows the password, and a PACS that only counts what it gets."""

    stored = 0
    url = ""

    def log_message(self, *_: object) -> None:
        return

    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        base = f"http://127.0.0.1:{self.server.server_address[1]}"
        if self.path.startswith("/dicom-web"):
            self.answer(200, [])
        elif self.path.endswith("openid-configuration"):
            self.answer(200, {"token_endpoint": f"{base}/token", "issuer": base})
        else:
            kind = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            der = KEY.public_key().public_bytes(*kind)
            self.answer(200, {"public_key": base64.b64encode(der).decode()})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/dicom-web"):  # one that reads no body sent in chunks
            Realm.stored += body == b"x"
            self.answer(200, {})
            return
        form = parse_qs(body.decode())
        if form["password"] != ["right"]:
            self.answer(401, {"error": "invalid_grant"})
            return
        self.answer(200, {"access_token": token(form["username"][0]), "token_type": "bearer"})


def token(name: str, key: Any = KEY, algorithm: str = "RS256", life_s: int = 600) -> str:
    claims = {
        "preferred_username": name,
        "exp": int(time.time()) + life_s,
        "iss": Realm.url,
        "azp": "monailabel-app",
        "realm_access": {"roles": [f"monailabel-{role}" for role in ROLES[name]]},
    }
    return jwt.encode(claims, key, algorithm=algorithm)


def bearer(name: str, **options: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(name, **options)}"}


@pytest.fixture(scope="module")
def realm() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Realm)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Realm.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield Realm.url
    server.shutdown()


@pytest.fixture(scope="module")
def guarded(realm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with authentication on, beside the PACS of the stand-in."""
    folder = tmp_path_factory.mktemp("guarded")
    env = {
        "MONAI_LABEL_AUTH_ENABLE": "true",
        "MONAI_LABEL_AUTH_REALM_URI": realm,
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"),
    }
    studies = f"{realm}/dicom-web"
    with running_server(studies, model_dir=folder / "model", labels="a", env=env) as url:
        yield url


def routes(url: str) -> list[tuple[str, str, str]]:
    """Return method, path and summary of every route that the server lists."""
    found = []
    for path, methods in requests.get(f"{url}/openapi.json", timeout=60).json()["paths"].items():
        for method, told in methods.items():
            filled = re.sub(r"\{session_id\}", UUID, path)
            filled = re.sub(r"\{[^}]+\}", "none", filled)
            found.append((method.upper(), filled, told.get("summary", "")))
    hidden = [("POST", "/reload"), ("GET", "/ohif/"), ("GET", "/proxy/dicom/qido/studies")]
    hidden += [("POST", "/proxy/dicom/stow/studies"), ("GET", "/proxy/dicom/wado/studies")]
    return found + [(method, path, "") for method, path in hidden]


def test_nothing_answers_without_a_token(guarded: str) -> None:
    open_to_all = []
    for method, path, _ in routes(guarded):
        reply = requests.request(method, guarded + path, timeout=60, allow_redirects=False)
        if reply.status_code != 401 and path not in PUBLIC:
            open_to_all.append((method, path, reply.status_code))
    assert open_to_all == []


@pytest.mark.parametrize(
    "wrong",
    [
        bearer("alma", life_s=-10),
        bearer("alma", key=rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        bearer("alma", key="a secret that the server does not know", algorithm="HS256"),
    ],
    ids=["expired", "another realm", "another algorithm"],
)
def test_wrong_tokens_are_refused(guarded: str, wrong: dict[str, str]) -> None:
    assert requests.get(f"{guarded}/info/", headers=wrong, timeout=60).status_code == 401
    assert requests.get(f"{guarded}/info/", headers=bearer("ulla"), timeout=60).ok


def test_roles_hold_as_the_summaries_say(guarded: str) -> None:
    """Every route names its role; a user without it gets 403, one with it does not."""
    for method, path, summary in routes(guarded):
        named = re.match(r"\|RBAC: monailabel-(\w+)\|", summary)
        if not named:
            continue
        role = named.group(1)
        # what cannot be parsed reaches no task, but the role is looked at first
        options: dict[str, Any] = {"timeout": 60, "data": b"{", "allow_redirects": False}
        if role != "user":
            low = requests.request(method, guarded + path, headers=bearer("ulla"), **options)
            assert low.status_code == 403, (method, path)


def test_storing_in_the_pacs_needs_an_annotator(guarded: str) -> None:
    before = Realm.stored
    url = f"{guarded}/proxy/dicom/wado/studies"
    kind = {"Content-Type": "multipart/related"}
    reply = requests.post(url, headers={**bearer("ulla"), **kind}, data=b"x", timeout=60)
    assert reply.status_code == 403
    assert Realm.stored == before
    reply = requests.post(url, headers={**bearer("anna"), **kind}, data=b"x", timeout=60)
    assert reply.ok
    assert Realm.stored == before + 1


def test_a_path_never_leaves_the_dicomweb_root(guarded: str) -> None:
    """The stand-in answers outside its root, so that only the proxy can refuse."""
    for path in ("%2e%2e/secret", "studies/%2e%2e/%2e%2e/secret", "studies%2F..%2F..%2Fsecret"):
        request = requests.Request(
            "GET", f"{guarded}/proxy/dicom/wado/x", headers=bearer("anna")
        ).prepare()
        request.url = f"{guarded}/proxy/dicom/wado/{path}"  # requests would tidy it up
        reply = requests.Session().send(request, timeout=60)
        assert reply.status_code == 400, (path, reply.text)
        assert "leaves the server's root" in reply.json()["detail"]


def test_only_an_admin_reloads_the_app(guarded: str) -> None:
    reply = requests.post(f"{guarded}/reload", headers=bearer("anna"), timeout=60)
    assert reply.status_code == 403


def test_the_plugin_logs_in_by_itself(guarded: str, slicer_plugin: Any, tmp_path: Path) -> None:
    asked = []

    class Dialog:
        def __init__(self, **_: Any) -> None:
            text = SimpleNamespace
            self.ui = text(username=text(text="anna"), password=text(text="right"))

        def exec(self) -> None:
            asked.append(1)

    slicer_plugin.LoginDialog = Dialog
    logic = slicer_plugin.MONAILabelLogic(str(tmp_path), guarded, client_id="anna")
    assert "uncol" in logic.info()["models"]
    assert logic.next_sample("uncol") == {}
    assert len(asked) == 1


def test_a_wrong_password_is_told(guarded: str) -> None:
    form = {"username": "anna", "password": "wrong", "grant_type": "password"}
    reply = requests.post(f"{guarded}/auth/token", data=form, timeout=60)
    assert reply.status_code == 401
    assert "wrong password" in reply.json()["detail"]
