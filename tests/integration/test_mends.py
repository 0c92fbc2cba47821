"""Mends of MONAI Label's server. A test named after a defect fails once it is mended upstream.

Those of the PACS and of authentication are seen at work in pacs and test_auth.
"""

from __future__ import annotations

import inspect
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.integration


def test_upstream_still_calls_jwt_without_algorithms() -> None:
    from monailabel.endpoints.user import auth

    assert "algorithms" not in inspect.getsource(auth.from_token)


def test_upstream_endpoints_still_block_the_event_loop() -> None:
    from monailabel.endpoints import infer

    assert inspect.iscoroutinefunction(infer.api_run_inference)
    assert "await" not in inspect.getsource(infer.api_run_inference)


def test_upstream_datastore_still_joins_tags_unchecked() -> None:
    from monailabel.datastore.local import LocalDatastore

    assert "label_path(label_tag)" in inspect.getsource(LocalDatastore.save_label)
    assert "shutil.copy(" in inspect.getsource(LocalDatastore.save_label)


def test_upstream_reload_is_still_open_to_everybody() -> None:
    text = Path(find_spec("monailabel.app").origin).read_text()
    assert '@app.post("/reload", include_in_schema=False)\ndef reload():' in text


def test_upstream_proxy_still_drops_the_question() -> None:
    from monailabel.endpoints import proxy

    source = inspect.getsource(proxy.proxy_dicom)
    assert "query" not in source
    assert "await requests" not in source


def test_upstream_segments_are_still_named_by_their_place() -> None:
    from monailabel.datastore.utils.convert import nifti_to_dicom_seg

    assert "for i, idx in enumerate(unique_labels):" in inspect.getsource(nifti_to_dicom_seg)


def test_ohif_in_the_wheel_still_needs_its_mends() -> None:
    from monailabel.endpoints import ohif

    from uncol.server.viewers.ohif import OHIF_MENDS

    bundles = (Path(ohif.__file__).parent / "static" / "ohif").glob("*.js")
    texts = [bundle.read_text(encoding="utf-8") for bundle in bundles]
    for before in OHIF_MENDS:
        assert sum(text.count(before) for text in texts) == 1, before


def test_tokens_signed_by_a_realm_are_accepted() -> None:
    import jwt
    from cryptography.hazmat.primitives.asymmetric import rsa
    from monailabel.endpoints.user import auth

    from uncol.server.install import check_tokens

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    token = jwt.encode({"preferred_username": "ada"}, key, algorithm="RS256")
    original = auth.jwt
    try:
        with pytest.raises(jwt.DecodeError):
            original.decode(token, key.public_key(), options={"verify_aud": False})
        check_tokens()
        payload = auth.jwt.decode(token, key.public_key(), options={"verify_aud": False})
        assert payload["preferred_username"] == "ada"
        forged = jwt.encode({"preferred_username": "eve"}, "guess" * 10, algorithm="HS256")
        with pytest.raises(jwt.InvalidTokenError):
            auth.jwt.decode(forged, key.public_key(), options={"verify_aud": False})
    finally:
        auth.jwt = original


def test_a_running_infer_does_not_hold_up_other_requests(live: Any) -> None:
    case = sorted(path.name for path in live.studies.glob("*.nii.gz"))[0].removesuffix(".nii.gz")
    ended: list[float] = []

    def prompt() -> None:
        # a box over the whole scan makes the foundation model encode two dozen slices
        import json

        params = {"roi": [0, 500, 0, 500, 0, 500]}
        reply = requests.post(
            f"{live.url}/infer/uncol_prompt",
            params={"image": case},
            data={"params": json.dumps(params)},
            timeout=300,
        )
        assert reply.ok, reply.text
        ended.append(time.monotonic())

    slow = threading.Thread(target=prompt)
    slow.start()
    time.sleep(1.0)
    answered = []
    while slow.is_alive():
        assert requests.get(f"{live.url}/datastore/", timeout=60).ok
        answered.append(time.monotonic())
    slow.join()
    assert ended
    assert len([moment for moment in answered if moment < ended[0]]) >= 3
