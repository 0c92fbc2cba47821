"""A PACS is not taken at its word, nor is a note that clients may write."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from between import Between
from pydicom.uid import generate_uid

from uncol.data.grid import Grid
from uncol.data.scan import read_label, read_scan, write_volume
from uncol.datastores import pacs_mirror
from uncol.datastores.connect import connect
from uncol.datastores.pacs import FINAL, PacsDatastore
from uncol.datastores.pool import cases_of
from uncol.demo.orthanc import missing, running_orthanc
from uncol.demo.series import write_series
from uncol.dicom.segmentation import LABEL, ResultOrigin, write_segmentation
from uncol.dicom.series import Series, read_series
from uncol.errors import PacsError, RequestError, ScanError

pytestmark = [pytest.mark.integration, pytest.mark.slow]

GRID = Grid((24, 20, 12), np.diag([-1.0, -1.0, 3.0, 1.0]))
LABELS = {"fat": 1}
COUNT = 3


class Site:
    """Some series in a PACS, and the datastore beside it."""

    def __init__(self, folder: Path, pacs: str, web: str) -> None:
        self.folder, self.pacs, self.web = folder, pacs, web
        self.series: list[Series] = []
        for number in range(COUNT):
            values = np.random.default_rng(number).integers(0, 200, GRID.shape).astype(np.int16)
            write_series(self.files(number), values, GRID, number=number)
            self.series.append(read_series(self.files(number), case=str(number))[1])

    def files(self, number: int) -> Path:
        return self.folder / "dicom" / str(number)

    def send(self, number: int, first: int = 0, last: int | None = None) -> None:
        for path in sorted(self.files(number).glob("*.dcm"))[first:last]:
            self.store(path.read_bytes())

    def store(self, content: bytes) -> bool:
        return requests.post(f"{self.pacs}/instances", data=content, timeout=30).ok

    def drawn(self, number: int, depth: int = 5) -> np.ndarray:
        label = np.zeros(GRID.shape, np.uint8)
        label[3:9, 4 : 9 + number, 2 : 2 + depth] = 1
        return label

    def segmentation(self, number: int, depth: int = 5) -> Any:
        made = write_segmentation(
            self.drawn(number, depth), LABELS, self.series[number], ResultOrigin(LABEL, "by hand")
        )
        made.Manufacturer = "a viewer"
        return made

    def open(self, name: str = "mirror") -> PacsDatastore:
        folder = str(self.folder / name)
        return PacsDatastore(folder, connect(f"{self.web}/dicom-web", "auto"), labels=LABELS)

    def submit(self, store: PacsDatastore, number: int, depth: int = 5) -> None:
        path = self.folder / "drawn.nii.gz"
        write_volume(path, self.drawn(number, depth), self.series[number].grid)
        info = {"label_info": [{"name": "fat", "idx": 1}], "user": "bob"}
        store.save_label(self.series[number].uid, str(path), FINAL, info)


@pytest.fixture
def site(tmp_path: Path, need: Callable[[str], None]) -> Iterator[Site]:
    need(missing())
    with running_orthanc(tmp_path / "pacs") as pacs:
        between = ThreadingHTTPServer(("127.0.0.1", 0), Between)
        between.daemon_threads = True
        threading.Thread(target=between.serve_forever, daemon=True).start()
        Between.pacs, Between.no_segmentations, Between.cut = pacs, False, False
        Between.swapped.clear()
        Between.asked.clear()
        yield Site(tmp_path, pacs, f"http://127.0.0.1:{between.server_address[1]}")
        between.shutdown()
        between.server_close()


def content(dataset: Any) -> bytes:
    raw = BytesIO()
    dataset.save_as(raw, write_like_original=False)
    return raw.getvalue()


def voxels(store: PacsDatastore, case: str) -> int:
    path = store.get_label_uri(case, FINAL)
    return int((read_label(path).array > 0).sum()) if path else 0


def deleted(site: Site) -> list[str]:
    return [path for method, path in Between.asked if method == "DELETE"]


def test_notes_of_clients_steer_nothing(site: Site) -> None:
    for number in range(COUNT):
        site.send(number)
    store = site.open()
    one, two, three = sorted(store.list_images())
    order = {series.uid: number for number, series in enumerate(site.series)}
    site.submit(store, order[one])
    odd: list[dict[str, Any]] = [
        {"segmentations": 5},
        {"results": 3},
        {"results": {"STUDENT": {"series": one, "instance": "1.2", "class": "1.2"}}},
        {"unusable": "because"},
        {"StudyInstanceUID": "../../system?x="},
        {"SeriesInstanceUID": two},
    ]
    for info in odd:
        store.update_image_info(one, info)
        store.update_label_info(one, FINAL, {"pacs": "stored", "SeriesInstanceUID": one, **info})
        store.take_up_news()
        assert sorted(store.list_images()) == sorted([one, two, three])
        assert store.get_labeled_images() == [one]
        assert store.get_image_info(one)["StudyInstanceUID"] != "../../system?x="
        assert store.json()["objects"][one]["image"]["info"]["SeriesInstanceUID"] == one
    uncertainty = np.full(GRID.shape, 0.5, np.float32)
    store.publish_result(one, site.drawn(0), uncertainty, 1)
    Between.asked.clear()
    store.remove_label(one, FINAL)
    assert all(one not in path.split("/series/")[1] for path in deleted(site))
    again = site.open()
    assert sorted(again.list_images()) == sorted([one, two, three])


def test_a_series_that_grows_is_fetched_again_and_its_label_is_whole(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacs_mirror, "GROWN_SINCE_S", 1.0)
    case = site.series[0].uid
    site.send(0, 0, 6)
    store = site.open()
    assert store.list_images() == [case]
    assert read_scan(store.get_image_uri(case)).array.shape == (24, 20, 6)
    assert site.store(content(site.segmentation(0, depth=8)))
    store.take_up_news()
    assert voxels(store, case) == site.drawn(0, 4).sum()  # what lies in the six slices
    site.send(0, 6)
    store.take_up_news()
    assert store.list_images() == []  # it may still arrive
    time.sleep(1.1)
    assert store.list_images() == [case]
    assert read_scan(store.get_image_uri(case)).array.shape == (24, 20, 12)
    store.take_up_news()
    assert voxels(store, case) == site.drawn(0, 8).sum()


def test_images_of_another_series_are_not_taken(site: Site) -> None:
    site.send(0)
    site.send(1)
    store = site.open()
    one, two = (series.uid for series in site.series[:2])
    study = [series.study_uid for series in site.series]
    Between.swapped.update({f"{study[0]}/series/{one}": f"{study[1]}/series/{two}"})
    assert len(store.list_images()) == 2
    with pytest.raises(PacsError, match="gave images of"):
        store.get_image_uri(one)
    Between.swapped.clear()
    scan = read_scan(store.get_image_uri(one)).array
    np.testing.assert_array_equal(scan, read_series(site.files(0), case="0")[0].array)


def test_a_series_that_arrives_cut_is_asked_for_again(site: Site) -> None:
    site.send(0)
    store = site.open()
    (case,) = store.list_images()
    Between.cut = True
    with pytest.raises(PacsError, match="It may still arrive"):
        store.get_image_uri(case)
    Between.cut = False
    assert read_scan(store.get_image_uri(case)).array.shape == GRID.shape


def far(dataset: Any) -> None:
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        place = frame.PlanePositionSequence[0]
        x, y, z = (float(value) for value in place.ImagePositionPatient)
        place.ImagePositionPatient = [x + 0.7, y, z + (1e9 if number == 1 else 0)]


def nowhere(dataset: Any) -> None:
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient = ["1e400", "0", "0"]


def flat(dataset: Any) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence[0].PixelSpacing = [0, 0]


def endless(dataset: Any) -> None:
    dataset.NumberOfFrames = 2**31 - 1


def huge(dataset: Any) -> None:
    dataset.Rows = dataset.Columns = 65535


@pytest.mark.parametrize("spoil", [far, nowhere, flat, endless, huge])
def test_an_absurd_segmentation_holds_up_nobody(site: Site, spoil: Callable[[Any], None]) -> None:
    site.send(0)
    site.send(1)
    odd = pydicom.dcmread(BytesIO(content(site.segmentation(0))))
    spoil(odd)
    assert site.store(content(odd))
    store = site.open()
    for _ in range(3):
        store.take_up_news()
        assert len(store.list_images()) == 2
    assert store.get_labeled_images() == []
    assert store.get_image_info(site.series[0].uid)["label_refused"]
    site.submit(store, 1)
    assert store.get_labeled_images() == [site.series[1].uid]


ODD_SERIES: dict[str, Callable[[Any], None]] = {
    "one spacing": lambda d: setattr(d, "PixelSpacing", 2.0),
    "three spacings": lambda d: setattr(d, "PixelSpacing", [2, 2, 2]),
    "no size": lambda d: setattr(d, "PixelSpacing", [0, 0]),
    "five directions": lambda d: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0, 1]),
    "no direction": lambda d: setattr(d, "ImageOrientationPatient", [0] * 6),
    "two coordinates": lambda d: setattr(d, "ImagePositionPatient", [1, 2]),
    "no rows": lambda d: delattr(d, "Rows"),
    "no pixels": lambda d: delattr(d, "PixelData"),
    "one place": lambda d: setattr(d, "ImagePositionPatient", [0, 0, 0]),
    "far away": lambda d: setattr(d, "ImagePositionPatient", ["1e300", "0", "0"]),
    "large": lambda d: setattr(d, "Rows", 60000),
}


def test_odd_series_are_left_out_with_the_reason_and_hold_up_nobody(site: Site) -> None:
    site.send(0)
    odd: dict[str, str] = {}
    for what, change in ODD_SERIES.items():
        uid = generate_uid()
        stored = True
        for path in sorted(site.files(1).glob("*.dcm")):
            image = pydicom.dcmread(path)
            image.SeriesInstanceUID = uid
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            change(image)
            stored = stored and site.store(content(image))
        if stored:
            odd[uid] = what
    assert len(odd) >= 8
    store = site.open()
    assert len(store.list_images()) == 1 + len(odd)
    assert [case.name for case in cases_of(store)] == [site.series[0].uid]
    for uid, what in odd.items():
        with pytest.raises((ScanError, PacsError)):
            store.get_image_uri(uid)
        assert store.get_image_info(uid).get("unusable"), what
    assert store.list_images() == [site.series[0].uid]
    assert len(site.open().list_images()) == 1 + len(odd)  # the reason may have gone


def test_the_later_label_counts_whatever_clocks_and_lists_say(site: Site) -> None:
    site.send(0)
    case = site.series[0].uid
    store = site.open()
    first = site.segmentation(0, depth=3)
    ahead = datetime.datetime.now() + datetime.timedelta(hours=2)
    first.ContentDate, first.ContentTime = ahead.strftime("%Y%m%d"), ahead.strftime("%H%M%S.%f")
    assert site.store(content(first))
    store.take_up_news()
    assert voxels(store, case) == site.drawn(0, 3).sum()
    site.submit(store, 0, depth=6)
    store.take_up_news()
    assert voxels(store, case) == site.drawn(0, 6).sum()
    Between.no_segmentations = True  # the PACS answers with an empty list once
    store.take_up_news()
    Between.no_segmentations = False
    for _ in range(2):
        store.take_up_news()
        assert voxels(store, case) == site.drawn(0, 6).sum()
    anew = site.open("another mirror")
    for _ in range(2):
        anew.take_up_news()
    assert voxels(anew, case) == site.drawn(0, 6).sum()


def test_an_unknown_case_is_refused(site: Site) -> None:
    store = site.open()
    with pytest.raises(RequestError):
        store.save_label("../../x", "x.nii.gz", FINAL, {})
