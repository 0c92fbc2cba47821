"""Requests made by machine from the server's own schema, with and without a token.

`make faults N=10000` makes that many; by default it is some hundreds. No answer is a 500 without a
number, no file appears elsewhere, no temporary file stays, memory does not grow, and the server
starts again afterwards.
"""

from __future__ import annotations

import collections
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st

from uncol.demo.pool import make_pool
from uncol.demo.server import running_server
from uncol.server.access import word_of
from uncol.storage.model_folder import ModelFolder
from uncol.storage.scratch import LOCK

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

MIB = 2**20
COUNT = int(os.environ.get("UNCOL_FAULTS", "300"))
GROWTH_MIB = 300  # heaps settle within it
HIDDEN = [  # not in the schema
    ("GET", "/ohif/"),
    ("GET", "/proxy/dicom/wado/"),
    ("POST", "/proxy/dicom/stow/"),
    ("GET", "/static/"),
    ("POST", "/infer/wsi_v2/"),
    ("POST", "/reload"),
    ("PUT", "/datastore/"),
    ("DELETE", "/datastore/"),
    ("GET", "/session/"),
]
ANSWERS = (200, 202, 204, 400, 401, 403, 404, 405, 406, 409, 411, 413, 415, 422, 429, 502, 503)
EVIL = [
    "../../evil",
    "..",
    "",
    "\x00",
    "x" * 5000,
    "%2e%2e",
    "NaN",
    "\ud800",
    "a\\b",
    "/etc/passwd",
]


@dataclass
class Attacked:
    """A server, who may use it, and what may change around it."""

    url: str
    folder: Path
    token: str
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)

    def headers(self, known: bool) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if known else {}

    def check(self, method: str, path: str, reply: requests.Response, *, known: bool) -> None:
        self.statuses[reply.status_code] += 1
        assert reply.status_code in ANSWERS, (method, path, reply.status_code, reply.text[:300])
        sent = urlsplit(str(reply.request.url)).path or "/"  # clients resolve dots themselves
        public = sent in ("/", "/docs", "/auth/", "/auth/token") or sent.startswith("/static/")
        if not known and not public:
            assert reply.status_code >= 400, (method, path, reply.status_code)
        if reply.status_code >= 400 and method != "HEAD" and reply.content:
            detail = str(reply.json()["detail"])
            assert "Traceback" not in detail
            assert str(self.folder) not in detail

    def process(self) -> psutil.Process:
        port = self.url.rsplit(":", 1)[1]
        return next(
            one
            for one in psutil.process_iter(["cmdline"])
            if {"start_server", port} <= set(one.info["cmdline"] or [])
        )

    def outside(self) -> set[str]:
        inside = [self.folder / name for name in ("studies", "model", "tmp", "sessions")]
        return {
            str(path)
            for path in self.folder.rglob("*")
            if not any(path.is_relative_to(one) for one in inside)
        }


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, realm: Any) -> Any:
    folder = tmp_path_factory.mktemp("attacked")
    labels = make_pool(folder / "studies", folder / "truth", cases=4, seed=7)
    shutil.rmtree(folder / "truth")
    (folder / "tmp").mkdir()
    env = {
        "TMPDIR": str(folder / "tmp"),
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        "MONAI_LABEL_AUTH_ENABLE": "true",
        "MONAI_LABEL_AUTH_REALM_URI": realm.url,
    }
    conf = {"preset": "tiny3d", "teacher": "none", "max_upload_mb": "4"}
    return folder, lambda: running_server(
        folder / "studies", model_dir=folder / "model", labels=labels, conf=conf, env=env
    )


@pytest.fixture(scope="module")
def attacked(start: Any, realm: Any) -> Iterator[Attacked]:
    folder, run = start
    with run() as url:
        yield Attacked(url, folder, realm.token("alma", exp=2**31))


def cases_of_schema(url: str) -> st.SearchStrategy[Any]:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 30
    return st.one_of([operation.as_strategy() for operation in operations])


texts = st.one_of(st.sampled_from(EVIL), st.text(max_size=20))


def test_requests_made_by_machine(attacked: Attacked) -> None:
    before = attacked.outside()
    scans = {path.name for path in (attacked.folder / "studies").glob("*.nii.gz")}
    process = attacked.process()
    rules = settings(
        max_examples=COUNT,
        deadline=None,
        derandomize=False,
        database=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    sizes: list[int] = []

    @rules
    @given(cases_of_schema(attacked.url), st.booleans())
    def from_schema(case: Any, known: bool) -> None:
        query = dict(case.query or {})
        query.pop("run_sync", None)  # it waits for a child that takes half a minute to start
        case.query = query
        if case.method == "POST" and case.path.startswith("/scoring"):
            case.path_parameters = {"method": "none"}  # each would start a child
        reply = case.call(base_url=attacked.url, headers=attacked.headers(known), timeout=60)
        attacked.check(case.method, case.formatted_path, reply, known=known)
        sizes.append(process.memory_info().rss)

    @rules
    @given(st.sampled_from(HIDDEN), texts, st.booleans(), st.binary(max_size=100))
    def hidden(route: tuple[str, str], text: str, known: bool, body: bytes) -> None:
        method, path = route
        name = requests.utils.quote(text.encode("utf-8", "surrogatepass"), safe="")
        full = path if path in ("/reload", "/datastore/") else path + name
        reply = requests.request(
            method,
            attacked.url + full,
            data=body if method in ("POST", "PUT") else None,
            headers=attacked.headers(known),
            timeout=60,
            allow_redirects=False,
        )
        if reply.status_code == 307:  # a slash too few
            return
        attacked.check(method, full, reply, known=known)

    from_schema()
    hidden()
    growth = (max(sizes[-20:]) - sizes[min(len(sizes) - 1, 100)]) / MIB
    files = [path for path in (attacked.folder / "tmp").rglob("*") if path.is_file()]
    left = [str(path) for path in files if path.name != LOCK]
    sys.stdout.write(
        f"\n{sum(attacked.statuses.values())} requests: {dict(attacked.statuses)}; memory grew by "
        f"{growth:.0f} MiB; temporary files left: {len(left)}\n"
    )
    assert growth < GROWTH_MIB
    assert left == []
    assert attacked.outside() == before
    assert scans <= {path.name for path in (attacked.folder / "studies").glob("*.nii.gz")}
    log = (attacked.folder / "model" / "server.log").read_text()
    for number in re.findall(r"\(error ([0-9a-f]{12})\)", log):
        assert f"Error {number} at" in log
    assert requests.get(f"{attacked.url}/info/", headers=attacked.headers(True), timeout=60).ok


def test_the_server_starts_again(attacked: Attacked, start: Any) -> None:
    assert word_of("user")
    process = attacked.process()
    process.kill()
    psutil.wait_procs([process], timeout=20)
    folder, run = start
    with run() as url:
        reply = requests.get(f"{url}/datastore/", headers=attacked.headers(True), timeout=60)
        assert reply.json()["total"] >= 4
    assert ModelFolder(folder / "model").project.exists()
