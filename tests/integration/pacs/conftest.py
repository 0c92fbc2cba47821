"""A PACS with scans, and the server beside it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests

from uncol.data.scan import read_label, read_scan
from uncol.demo.orthanc import missing, running_orthanc, upload
from uncol.demo.series import make_series_pool
from uncol.demo.server import running_server
from uncol.dicom.series import Series, read_series
from uncol.settings import REPOSITORY

BRAIN_LABELS = {"cerebellum": 1, "brainstem": 2}


@pytest.fixture(scope="session")
def need() -> Callable[[str], None]:
    """Skips a test that lacks a program."""
    return _need


def _need(missing: str) -> None:
    """Skip where something is missing; CI installs all of it and must not skip."""
    if missing and os.environ.get("UNCOL_TEST_ALL"):
        pytest.fail(f"Not installed: {missing}")
    if missing:
        pytest.skip(f"Not installed: {missing}")


@dataclass
class Hospital:
    """A PACS with brains, a server beside it, and what is known of both."""

    pacs: str
    url: str
    series: dict[str, Series]
    truth: Path
    folder: Path
    env: dict[str, str]

    @property
    def web(self) -> str:
        return f"{self.pacs}/dicom-web"

    def find(self, modality: str) -> list[dict[str, Any]]:
        query = {"Modality": modality}
        found = requests.get(f"{self.web}/series", params=query, timeout=30).json()
        return [{tag: one["Value"][0] for tag, one in f.items() if one.get("Value")} for f in found]

    def instances(self, modality: str) -> list[pydicom.Dataset]:
        """Everything of a modality, as stored, oldest first."""
        found = []
        for one in self.find(modality):
            ids = requests.post(
                f"{self.pacs}/tools/lookup", data=one["0020000E"], timeout=30
            ).json()
            for instance in requests.get(f"{self.pacs}/series/{ids[0]['ID']}", timeout=30).json()[
                "Instances"
            ]:
                raw = requests.get(f"{self.pacs}/instances/{instance}/file", timeout=30).content
                found.append(pydicom.dcmread(BytesIO(raw)))
        return sorted(found, key=lambda one: one.ContentDate + one.ContentTime)

    def store(self, dataset: pydicom.Dataset) -> None:
        """Store as OHIF does: through the server's proxy."""
        raw = BytesIO()
        dataset.save_as(raw, write_like_original=False)
        body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + raw.getvalue() + b"\r\n--x--"
        kind = 'multipart/related; type="application/dicom"; boundary=x'
        reply = requests.post(
            f"{self.url}/proxy/dicom/wado/studies",
            data=body,
            headers={"Content-Type": kind},
            timeout=60,
        )
        assert reply.ok, reply.text

    def label(self, case: str) -> np.ndarray:
        return read_label(self.truth / f"{case}.nii.gz").array

    def submit(self, case: str, path: Path, labels: dict[str, int]) -> None:
        """Submit a label as Slicer does."""
        info = [{"name": name, "idx": value} for name, value in labels.items()]
        reply = requests.put(
            f"{self.url}/datastore/label",
            params={"image": case},
            data={"params": json.dumps({"label_info": info})},
            files={"label": (path.name, path.read_bytes())},
            timeout=60,
        )
        assert reply.ok, reply.text

    def download(self, what: str, asked: dict[str, str]) -> np.ndarray:
        """An image or a label as the server gives it."""
        reply = requests.get(f"{self.url}/datastore/{what}", params=asked, timeout=120)
        assert reply.ok, reply.text
        path = self.folder / "download.nii.gz"
        path.write_bytes(reply.content)
        return read_scan(path).array

    def final(self, case: str) -> np.ndarray:
        """The submitted label as the server gives it."""
        return self.download("label", {"label": case, "tag": "final"})

    def train(self, **options: Any) -> None:
        """Train to the end."""
        requests.post(f"{self.url}/train/uncol", json=options, timeout=60)
        end = time.monotonic() + 500
        while "total_time" not in self.train_stats():
            assert time.monotonic() < end, "training did not end in time"
            time.sleep(2)

    def labeled(self) -> list[str]:
        """The cases with a submitted label, by the server."""
        found = requests.get(f"{self.url}/datastore/?output=all", timeout=60).json()["objects"]
        return [name for name, one in found.items() if "final" in one["labels"]]

    def train_stats(self) -> dict[str, Any]:
        stats = requests.get(f"{self.url}/info/", timeout=60).json()["train_stats"]
        return stats.get("uncol") or {}

    def status(self) -> dict[str, Any]:
        return requests.get(f"{self.url}/info/", timeout=60).json()["datastore"]


@contextmanager
def open_hospital(
    folder: Path, dicom: Path, truth: Path, labels: str, conf: dict[str, str]
) -> Iterator[Hospital]:
    """Run a PACS with the series below `dicom`, one folder each, and the server beside it."""
    _need(missing())
    series = {}
    for one in sorted(path for path in dicom.iterdir() if any(path.glob("*.dcm"))):
        found = read_series(one, case=one.name)[1]
        series[found.uid] = found
    env = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache")}
    with running_orthanc(folder / "pacs") as pacs:
        upload(pacs, dicom)
        with running_server(
            f"{pacs}/dicom-web",
            model_dir=folder / "model",
            labels=labels,
            conf={"preset": "tiny3d", **conf},
            env=env,
        ) as url:
            yield Hospital(pacs, url, series, truth, folder, env)


@pytest.fixture(scope="package")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """Five made brains, scored after a training and the results stored in the PACS."""
    folder = tmp_path_factory.mktemp("hospital")
    truth = folder / "truth"
    make_series_pool(folder / "series", truth, cases=5, seed=11)
    conf = {"pacs_results": "scored", "teacher": "none"}
    with open_hospital(folder, folder / "series", truth, ",".join(BRAIN_LABELS), conf) as made:
        yield made


@pytest.fixture(scope="module")
def real_hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """A scanner's own series: oblique, anisotropic T2 MR, and a CT."""
    dicom = REPOSITORY.parent / "shared" / "data" / "dicom"
    if not dicom.is_dir():
        pytest.skip(f"The real scans are not here: {dicom}")
    folder = tmp_path_factory.mktemp("real_hospital")
    conf = {"teacher": "none"}
    with open_hospital(folder, dicom, folder / "truth", "fat", conf) as made:
        yield made


@pytest.fixture(scope="package")
def trained_hospital(hospital: Hospital) -> Hospital:
    """The hospital after a training on three labels, the other cases scored."""
    labeled = hospital.labeled()
    for case in [c for c in hospital.series if c not in labeled][: max(0, 3 - len(labeled))]:
        hospital.submit(case, hospital.truth / f"{case}.nii.gz", BRAIN_LABELS)
    if not hospital.train_stats().get("model_version"):
        hospital.train(step_scale=0.25)
    return hospital
