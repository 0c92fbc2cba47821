"""The app on two small scans, and clients of its web application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from uncol.server.access import Access, Realm
from uncol.server.api import make_api
from uncol.server.app import UncolApp
from uncol.server.browsers import Allowed
from uncol.server.places import Places
from uncol.server.routes.parts import Parts
from uncol.server.sessions import Sessions


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> UncolApp:
    folder = tmp_path_factory.mktemp("routes")
    (folder / "studies").mkdir()
    for name in ("one", "two"):
        scan = np.random.default_rng(0).normal(size=(12, 12, 8)).astype(np.float32)
        nib.save(nib.Nifti1Image(scan, np.eye(4)), folder / "studies" / f"{name}.nii.gz")
    conf = {"labels": "a,b", "teacher": "none", "model_dir": str(folder / "model")}
    return UncolApp(str(folder), str(folder / "studies"), {**conf, "preset": "tiny3d"})


def served(app: UncolApp, access: Access, folder: Path) -> FastAPI:
    sessions = Sessions(folder / "sessions", longest_s=600, limit_bytes=2**20)
    places = Places([("studies folder", Path(app.studies))])
    return make_api(
        Parts(app.desk, access, app.models, sessions, places),
        allowed=Allowed({"testserver"}),
        max_upload_mb=1,
    )


@pytest.fixture
def open_client(app: UncolApp, tmp_path: Path) -> TestClient:
    return TestClient(served(app, Access(None), tmp_path), raise_server_exceptions=False)


@pytest.fixture
def guarded(app: UncolApp, realm: Any, tmp_path: Path) -> TestClient:
    access = Access(Realm(realm.url, issuer=None, audience=realm.client))
    return TestClient(served(app, access, tmp_path), raise_server_exceptions=False)
