"""Random requests: every refusal says why, nothing hangs, nothing is written elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uncol.demo.server import running_server

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FUZZ = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MODELS = ["uncol", "uncol_uncertainty", "uncol_overlay", "uncol_rois", "uncol_prompt", "none"]
EVIL = ["../../evil", "/etc/passwd", "..", ".", "", "a/../../b", "\x00", "x" * 5000, "%2e%2e", "\n"]
KEYS = [
    *("roi", "foreground", "background", "label", "device", "save_label", "map", "image", "model"),
    *("result_extension", "result_dtype", "seed", "step_scale", "labeled_only", "strategy", "case"),
    *(
        "pretrained",
        "label_info",
        "user",
        "client_id",
        "name",
        "idx",
        "output",
        "to_pacs",
        "label_tag",
        "ts",
    ),
]
texts = st.one_of(st.sampled_from(EVIL), st.text(max_size=30))
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), texts), inner, max_size=5),
    ),
    max_leaves=12,
)
bodies = st.dictionaries(st.sampled_from(KEYS), values, max_size=6)


@dataclass
class Fuzzed:
    """A server and what may change on its disk."""

    url: str
    folder: Path
    studies: Path
    case: str

    def check(self, reply: requests.Response, *, ours: bool = True) -> None:
        """Whatever was asked: an answer, or a refusal with its reason."""
        if reply.status_code >= 400:
            told = reply.json()["detail"]
            assert told, reply.status_code
            assert told != "Internal Server Error"
        if reply.status_code >= 500 and ours:
            assert "Unexpected" not in str(reply.json()["detail"]), reply.text

    def outside(self) -> set[str]:
        """Everything in the folder around studies and models."""
        inside = (self.studies, self.folder / "model")
        return {
            str(path)
            for path in self.folder.rglob("*")
            if not any(path.is_relative_to(one) for one in inside)
        }


@pytest.fixture(scope="module")
def fuzzed(
    pool: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fuzzed]:
    import shutil

    folder = tmp_path_factory.mktemp("fuzz")
    studies = folder / "studies"
    shutil.copytree(pool[0], studies)
    case = sorted(path.name for path in studies.glob("*.nii.gz"))[0].removesuffix(".nii.gz")
    conf = {"preset": "tiny3d", "teacher": "none", "max_upload_mb": "8"}
    with running_server(studies, model_dir=folder / "model", labels=pool[2], conf=conf) as url:
        made = Fuzzed(url, folder, studies, case)
        before = made.outside()
        labels = {path.name for path in (studies).glob("*.nii.gz")}
        yield made
        assert made.outside() == before
        assert {path.name for path in studies.glob("*.nii.gz")} == labels
        start = time.monotonic()
        assert requests.get(f"{url}/info/", timeout=30).ok  # no worker is stuck
        assert time.monotonic() - start < 10


def post(fuzzed: Fuzzed, path: str, **options: Any) -> requests.Response:
    return requests.request(
        options.pop("method", "POST"), f"{fuzzed.url}{path}", timeout=60, **options
    )


@FUZZ
@given(st.sampled_from(MODELS), st.one_of(st.none(), texts), bodies)
def test_infer(fuzzed: Fuzzed, model: str, image: str | None, body: dict[str, Any]) -> None:
    params = {"image": fuzzed.case if image is None else image}
    data = {"params": json.dumps(body)}
    fuzzed.check(post(fuzzed, f"/infer/{model}", params=params, data=data))


@FUZZ
@given(st.sampled_from(["uncol", "random", "first", "uncertainty", "none"]), bodies)
def test_next_sample(fuzzed: Fuzzed, strategy: str, body: dict[str, Any]) -> None:
    fuzzed.check(post(fuzzed, f"/activelearning/{strategy}", json=finite(body)))


@FUZZ
@given(st.sampled_from(["uncol", "none"]), bodies)
def test_train(fuzzed: Fuzzed, model: str, body: dict[str, Any]) -> None:
    reply = post(fuzzed, f"/train/{model}", json=finite(body))
    fuzzed.check(reply)
    assert reply.status_code >= 400  # nothing is labeled


@FUZZ
@given(
    st.one_of(st.none(), texts),
    st.one_of(st.just("final"), texts),
    st.one_of(st.binary(max_size=2000), st.just(None)),
    st.sampled_from([".nii.gz", ".nrrd", ".seg.nrrd", ".json", ".png", "", ".exe", "/../x"]),
    st.one_of(bodies.map(json.dumps), texts),
)
def test_save_label(
    fuzzed: Fuzzed, image: str | None, tag: str, content: bytes | None, ending: str, params: str
) -> None:
    scan = fuzzed.studies / f"{fuzzed.case}.nii.gz"
    reply = post(
        fuzzed,
        "/datastore/label",
        method="PUT",
        params={"image": fuzzed.case if image is None else image, "tag": tag},
        data={"params": params},
        files={"label": (f"label{ending}", scan.read_bytes() if content is None else content)},
    )
    fuzzed.check(reply)


@FUZZ
@given(texts, st.one_of(st.binary(max_size=500), st.just(None)))
def test_session_upload(fuzzed: Fuzzed, name: str, content: bytes | None) -> None:
    files = {"files": (name or "x", b"x" * (9 * 2**20) if content is None else content)}
    reply = post(fuzzed, "/session/", method="PUT", files=files)
    fuzzed.check(reply, ours=False)  # MONAI Label's alone
    if content is None:
        assert reply.status_code == 413


@FUZZ
@given(
    st.sampled_from(
        ["/uncol/models/rollback", "/uncol/models/gc", "/scoring/uncol", "/scoring/dice"]
    ),
    st.dictionaries(st.sampled_from(["version", "keep", "y", "y_pred", "run_sync"]), scalars),
)
def test_models_and_scoring(fuzzed: Fuzzed, path: str, asked: dict[str, Any]) -> None:
    if path == "/scoring/uncol":
        asked.pop("run_sync", None)
    fuzzed.check(post(fuzzed, path, params=asked, json={}))


def finite(value: Any) -> Any:
    """JSON as requests can send it."""
    return json.loads(
        json.dumps(value, default=str).replace("NaN", "null").replace("Infinity", "1e300")
    )
