"""Every route asked once, and who may use it; both read from the application itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from uncol.errors import BusyError
from uncol.server.access import Realm
from uncol.server.app import UncolApp
from uncol.tasks.jobs import Jobs

ROLES = {
    "nobody": [],
    "ulla": ["user"],
    "anna": ["user", "annotator"],
    "rita": ["user", "annotator", "reviewer"],
    "alma": ["user", "annotator", "reviewer", "admin"],
}
PUBLIC = {  # documentation, and what tells how to log in
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/favicon.ico"),
    ("GET", "/openapi.json"),
    ("GET", "/auth/"),
    ("POST", "/auth/token"),
}
ANYBODY = {("GET", "/auth/token/valid")}  # with a valid token, whatever their roles
LEAST: dict[tuple[str, str], str] = {  # what MONAI Label asks for, and where we ask for more
    ("DELETE", "/batch/infer"): "admin",
    ("DELETE", "/datastore/"): "admin",
    ("DELETE", "/datastore/image"): "admin",
    ("DELETE", "/datastore/label"): "admin",
    ("DELETE", "/model/{model}"): "admin",
    ("DELETE", "/scoring/"): "annotator",
    ("DELETE", "/session/{session_id}"): "user",
    ("DELETE", "/train/"): "admin",
    ("GET", "/batch/infer"): "user",
    ("GET", "/datastore/"): "user",
    ("GET", "/datastore/dataset"): "annotator",
    ("GET", "/datastore/image"): "user",
    ("GET", "/datastore/image/info"): "user",
    ("GET", "/datastore/label"): "user",
    ("GET", "/datastore/label/info"): "user",
    ("GET", "/info/"): "user",
    ("GET", "/logs/"): "admin",
    ("GET", "/logs/gpu"): "admin",
    ("GET", "/model/info/{model}"): "admin",
    ("GET", "/model/{model}"): "admin",
    ("GET", "/ohif/{path:path}"): "user",
    ("GET", "/proxy/dicom/qido/{path:path}"): "user",
    ("GET", "/proxy/dicom/stow/{path:path}"): "user",
    ("GET", "/proxy/dicom/wado/{path:path}"): "user",
    ("GET", "/proxy/dicom/{path:path}"): "user",
    ("GET", "/scoring/"): "user",
    ("GET", "/session/{session_id}"): "user",
    ("GET", "/train/"): "user",
    ("GET", "/uncol/models/"): "user",
    ("GET", "/uncol/models/{version}"): "user",
    ("HEAD", "/datastore/image"): "user",
    ("HEAD", "/datastore/label"): "user",
    ("POST", "/activelearning/{strategy}"): "user",
    ("POST", "/batch/infer/{model}"): "admin",
    ("POST", "/infer/wsi/{model}"): "user",
    ("POST", "/infer/wsi_v2/{model}"): "user",
    ("POST", "/infer/{model}"): "user",
    ("POST", "/proxy/dicom/qido/{path:path}"): "user",
    ("POST", "/proxy/dicom/stow/{path:path}"): "user",
    ("POST", "/proxy/dicom/wado/{path:path}"): "user",
    ("POST", "/proxy/dicom/{path:path}"): "user",
    ("POST", "/reload"): "admin",
    ("POST", "/scoring/"): "annotator",
    ("POST", "/scoring/{method}"): "annotator",
    ("POST", "/train/"): "admin",
    ("POST", "/train/{model}"): "admin",
    ("POST", "/uncol/models/gc"): "admin",
    ("POST", "/uncol/models/rollback"): "admin",
    ("PUT", "/datastore/"): "annotator",
    ("PUT", "/datastore/image"): "annotator",
    ("PUT", "/datastore/image/info"): "annotator",
    ("PUT", "/datastore/label"): "annotator",
    ("PUT", "/datastore/label/info"): "annotator",
    ("PUT", "/datastore/updatelabelinfo"): "annotator",
    ("PUT", "/model/{model}"): "admin",
    ("PUT", "/session/"): "user",
}


def routes(api: Any) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route; newer FastAPI keeps included routers whole."""
    for route in api.routes:
        if hasattr(route, "original_router"):
            yield from routes(route.original_router)
        elif isinstance(route, APIRoute):
            yield from ((method, route.path) for method in route.methods)
        elif hasattr(route, "methods"):
            yield "GET", route.path


def filled(path: str) -> str:
    return re.sub(r"\{[^}]+\}", "none", path)


def ask(client: TestClient, method: str, path: str, token: str | None = None) -> Any:
    # what cannot be parsed reaches no task, but tokens and roles are looked at first
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    body = b"{" if method in ("POST", "PUT") else None
    return client.request(method, filled(path), headers=headers, content=body)


def test_every_route_answers_and_none_by_surprise(open_client: TestClient) -> None:
    asked = set()
    for method, path in routes(open_client.app):
        reply = ask(open_client, method, path)
        assert reply.status_code < 500, (method, path, reply.text)
        asked.add((method, path))
    assert open_client.get("/").status_code == 200
    assert open_client.get("/docs").status_code == 200
    assert open_client.get("/favicon.ico").status_code == 200
    assert open_client.get("/static/favicon.ico").status_code == 200
    assert "UnCoL" in open_client.get("/openapi.json").text
    assert asked >= PUBLIC


def test_every_route_has_a_rule(guarded: TestClient) -> None:
    assert set(routes(guarded.app)) == PUBLIC | ANYBODY | set(LEAST)


@pytest.mark.parametrize("who", [None, "malformed", "expired", "another realm", *ROLES])
def test_a_route_lets_in_whom_its_rule_names(
    guarded: TestClient, realm: Any, who: str | None
) -> None:
    token = {
        None: None,
        "malformed": "x.y.z",
        "expired": realm.token("alma", exp=1),
        "another realm": realm.token("alma", iss="http://elsewhere"),
    }.get(who, realm.token(who or ""))
    for rule, role in LEAST.items():
        status = ask(guarded, *rule, token).status_code
        if who not in ROLES:
            assert status == 401, (rule, status)
        elif role not in ROLES[who]:
            assert status == 403, (rule, status)
        else:
            assert status not in (401, 403), (rule, status)
    for rule in ANYBODY:
        assert ask(guarded, *rule, token).status_code == (200 if who in ROLES else 401)


@pytest.mark.parametrize("wish", ["save_label", "to_pacs"])
def test_keeping_a_result_takes_an_annotator(guarded: TestClient, realm: Any, wish: str) -> None:
    form = {"params": f'{{"{wish}": true}}'}

    def infer(who: str) -> int:
        headers = {"Authorization": f"Bearer {realm.token(who)}"}
        return guarded.post("/infer/uncol?image=one", data=form, headers=headers).status_code

    assert infer("ulla") == 403
    assert infer("anna") == 400  # there is no student yet, or no PACS


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/train/uncol"), ("POST", "/scoring/dice"), ("POST", "/activelearning/uncol")],
)
@pytest.mark.parametrize(
    "body", [b'{"bundle_path": "/tmp"}', b'{"seed": 1e400}', b"[" * 2000, b'{"x": NaN}', b"[1]"]
)
def test_an_odd_body_is_refused_in_words(
    open_client: TestClient, method: str, path: str, body: bytes
) -> None:
    reply = open_client.request(
        method, path, content=body, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code in (400, 422), reply.text
    assert reply.json()["detail"]


def test_notes_do_not_change_what_next_sample_says(open_client: TestClient) -> None:
    notes = {"info": '{"id": "../evil", "path": "/etc/passwd", "reason": "mine"}'}
    assert open_client.put("/datastore/image/info?image=one", data=notes).status_code == 200
    for _ in range(2):
        sample = open_client.post("/activelearning/first", json={}).json()
        assert sample["id"] in ("one", "two")
        assert "path" not in sample  # the test client is no machine of ours
        assert sample["reason"] != "mine"


def test_a_case_goes_with_its_labels_and_a_label_id_is_no_path(
    open_client: TestClient, app: UncolApp
) -> None:
    scan = Path(app.studies) / "two.nii.gz"
    for name in ("../../two", str(scan).removesuffix(".nii.gz"), "..", "two/../two"):
        reply = open_client.delete("/datastore/label", params={"id": name, "tag": "original"})
        assert reply.status_code == 400, reply.text
    assert scan.exists()


def test_uploads_leave_nothing_behind(
    open_client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    junk = ("l.nii.gz", b"\0" * 5000)
    asked = [
        ("PUT", "/datastore/label?image=one", {"label": junk}),
        ("PUT", "/datastore/label?image=nobody", {"label": junk}),
        ("PUT", "/datastore/image?image=new", {"file": junk}),
        ("POST", "/infer/uncol", {"file": junk}),
        ("POST", "/infer/uncol?image=one", {"label": junk}),
        ("PUT", "/session/?uncompress=true", {"files": ("x.zip", b"junk")}),
        ("PUT", "/session/", {"files": ("..", b"junk")}),
        ("PUT", "/model/uncol", {"file": junk}),
    ]
    for method, path, files in asked:
        reply = open_client.request(method, path, files=files)
        assert reply.status_code == 400, (path, reply.text)
        assert str(temporary) not in reply.text
    assert list(temporary.iterdir()) == []


def test_a_requests_token_is_checked_once(
    guarded: TestClient, realm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    user = Realm.user

    def counted(self: Realm, token: str) -> Any:
        checked.append(token)
        return user(self, token)

    monkeypatch.setattr(Realm, "user", counted)
    headers = {"Authorization": f"Bearer {realm.token('anna')}"}
    notes = {"info": "{}"}
    assert guarded.put("/datastore/image/info?image=one", data=notes, headers=headers).is_success
    assert len(checked) == 1


FROM_HABIT = {
    "max_epochs": 1, "name": "net_test_01", "val_split": 0.5, "multi_gpu": False,
    "dataset": "CacheDataset", "client_id": "me", "debug": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/train/", FROM_HABIT),  # as MONAI Label's own tests and scripts send it, for all trainers
        ("/train/", {"uncol": FROM_HABIT}),  # as OHIF sends it
        ("/train/", {"uncol": {}, **FROM_HABIT}),
        ("/train/uncol", {"model": "uncol", **FROM_HABIT}),
    ],
)
def test_options_are_taken_in_every_form_that_clients_send(
    open_client: TestClient, path: str, body: dict[str, Any]
) -> None:
    reply = open_client.post(path, json=body)
    assert reply.status_code == 409, reply.text  # nothing is labeled: the options were taken
    assert "labeled" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/train/", {"bundle_path": "/tmp"}, "'bundle_path'"),
        ("/train/", {"uncol": {"bundle_path": "/tmp"}}, "'bundle_path'"),
        ("/train/", {"uncol": 3}, "JSON object"),
        ("/train/uncol", {"model": "other"}, "'model'"),
        ("/scoring/dice", {"method": "uncol"}, "'method'"),
        ("/scoring/", {"dice": {"x": 1}}, "'x'"),
    ],
)
def test_what_is_no_option_is_named_in_every_form(
    open_client: TestClient, path: str, body: dict[str, Any], named: str
) -> None:
    reply = open_client.post(path, json=body)
    assert reply.status_code == 400, reply.text
    assert named in reply.json()["detail"]


def test_a_scoring_that_somebody_asks_for_stops_the_server_s_own(
    app: UncolApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(("sleep", "60"))
    monkeypatch.setattr("uncol.server.desk.JOBS", jobs)
    try:
        app.desk.score_by_itself()
        (own,) = jobs.all("scoring")
        asked = app.desk.start_scoring("dice", {})
        assert own.status == "STOPPED"
        assert asked.status in ("SUBMITTED", "RUNNING")
        with pytest.raises(BusyError, match="already under way"):
            app.desk.start_scoring("dice", {})
    finally:
        jobs.stop("scoring")


def test_a_header_with_its_voxels_elsewhere_is_sent_as_one_file(
    open_client: TestClient, app: UncolApp, tmp_path: Path
) -> None:
    scan = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(scan), str(Path(app.studies) / "apart.nhdr"))
    open_client.post("/reload")
    reply = open_client.get("/datastore/image?image=apart")
    assert reply.status_code == 200
    assert 'filename="apart.nrrd"' in reply.headers["Content-Disposition"]
    (tmp_path / "it.nrrd").write_bytes(reply.content)
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "it.nrrd"))), scan
    )
