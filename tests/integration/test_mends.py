"""Mends of MONAI Label's server. A test named after a defect fails once it is mended upstream.

What stands in their place is tested where it is; docs/monai-label.md section 3 says where.
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


def test_upstream_requests_still_become_the_tasks_own() -> None:
    from monailabel.utils.async_tasks import task, utils

    assert "request.update(params)" in inspect.getsource(task.AsyncTask.run)
    assert 'request.get("bundle_path")' in inspect.getsource(utils)


def test_upstream_archives_are_still_unpacked_unchecked() -> None:
    from monailabel.utils.sessions import Sessions

    assert "shutil.unpack_archive(data_file, tmp_folder)" in inspect.getsource(Sessions.add_session)


def test_upstream_still_answers_every_origin() -> None:
    text = Path(find_spec("monailabel.app").origin).read_text()
    assert 'else ["*"]' in text
    assert "allow_credentials=True" in text


def test_upstream_temporary_files_still_go_after_success_only() -> None:
    from monailabel.endpoints import datastore

    assert "background_tasks.add_task(remove_file" in inspect.getsource(datastore.save_label)


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
