"""A PACS that goes away, and one that holds odd segmentations: nothing that was saved is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests

from uncol.data.grid import Grid
from uncol.data.scan import read_label, write_volume
from uncol.datastores.connect import connect
from uncol.datastores.pacs import FINAL, PacsDatastore
from uncol.demo.orthanc import missing, running_orthanc, upload
from uncol.demo.series import write_series
from uncol.demo.server import free_port
from uncol.dicom.segmentation import LABEL, ResultOrigin, write_segmentation
from uncol.dicom.series import Series, read_series

pytestmark = [pytest.mark.integration]

GRID = Grid((24, 20, 8), np.diag([-1.0, -1.0, 3.0, 1.0]))
LABELS = {"fat": 1}


class Site:
    """Two series in a PACS that can be switched off and on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.series: list[Series] = []
        for number in (1, 2):
            one = folder / "dicom" / str(number)
            values = np.random.default_rng(number).integers(0, 200, GRID.shape).astype(np.int16)
            write_series(one, values, GRID, number=number)
            self.series.append(read_series(one, case=str(number))[1])

    def on(self) -> Any:
        return running_orthanc(self.folder / "pacs", port=self.port)

    def open(self) -> PacsDatastore:
        web = f"http://127.0.0.1:{self.port}/dicom-web"
        return PacsDatastore(str(self.folder / "mirror"), connect(web, "auto"), labels=LABELS)

    def label(self, store: PacsDatastore, number: int) -> None:
        path = self.folder / "drawn.nii.gz"
        write_volume(path, drawn(number), self.series[number].grid)
        info = {"label_info": [{"name": "fat", "idx": 1}]}
        store.save_label(self.series[number].uid, str(path), FINAL, info)

    def segmentations(self, url: str) -> int:
        query = {"Modality": "SEG"}
        return len(requests.get(f"{url}/dicom-web/series", params=query, timeout=30).json())


def drawn(number: int) -> np.ndarray:
    label = np.zeros(GRID.shape, np.uint8)
    label[3:9, 4 : 9 + number, 2:5] = 1
    return label


@pytest.fixture
def site(tmp_path: Path, need: Callable[[str], None]) -> Site:
    need(missing())
    return Site(tmp_path)


def ask(store: PacsDatastore, until: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.5)
        store.take_up_news()


def test_a_label_drawn_while_the_pacs_is_away_is_stored_later_and_stays(site: Site) -> None:
    case = site.series[0].uid
    with site.on() as url:
        upload(url, site.folder / "dicom")
        store = site.open()
        assert len(store.list_images()) == 2
        store.get_image_uri(case)
    site.label(store, 0)
    assert store.get_label_info(case, FINAL)["pacs"] == "waiting"
    assert store.get_labeled_images() == [case]
    store.take_up_news()  # and asking a PACS that is away breaks nothing
    assert len(store.list_images()) == 2
    with site.on() as url:
        ask(store, lambda: store.get_label_info(case, FINAL)["pacs"] == "stored")
        for _ in range(3):
            store.take_up_news()
            assert store.get_labeled_images() == [case]
        assert site.segmentations(url) == 1
        again = site.open()
        again.take_up_news()
        assert again.get_labeled_images() == [case]
        label = read_label(again.get_label_uri(case, FINAL)).array
        np.testing.assert_array_equal(label, drawn(0))


def test_what_is_stored_while_the_pacs_is_being_asked_counts_at_once(site: Site) -> None:
    with site.on() as url:
        upload(url, site.folder / "dicom")
        store = site.open()
        assert len(store.list_images()) == 2
        made = write_segmentation(drawn(0), LABELS, site.series[0], ResultOrigin(LABEL, "by hand"))
        made.Manufacturer = "a viewer"
        listed, go_on = threading.Event(), threading.Event()
        list_now = store._pacs.segmentations

        def slowly() -> Any:
            found = list_now()
            listed.set()
            assert go_on.wait(30)
            return found

        store._pacs.segmentations = slowly  # type: ignore[method-assign]
        with ThreadPoolExecutor() as threads:
            threads.submit(store.take_up_news)
            assert listed.wait(30)
            store._pacs.segmentations = list_now  # type: ignore[method-assign]
            assert requests.post(f"{url}/instances", data=_file(made).read(), timeout=30).ok
            threading.Timer(1, go_on.set).start()
            store.take_up_news()  # as the server does before it answers who stored it
        assert store.get_labeled_images() == [site.series[0].uid]


def without_reference(dataset: Any) -> None:
    del dataset.ReferencedSeriesSequence


def without_places(dataset: Any) -> None:
    del dataset.SharedFunctionalGroupsSequence


def without_segments(dataset: Any) -> None:
    del dataset.SegmentSequence


def without_frames(dataset: Any) -> None:
    dataset.PerFrameFunctionalGroupsSequence = []


def with_other_numbers(dataset: Any) -> None:
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.SegmentIdentificationSequence


def short(dataset: Any) -> None:
    dataset.PixelData = dataset.PixelData[:4]


ODD = [without_reference, without_places, without_segments, without_frames, short]


@pytest.mark.parametrize("spoil", [*ODD, with_other_numbers])
def test_an_odd_segmentation_in_the_pacs_breaks_no_request(
    site: Site, spoil: Callable[[Any], None]
) -> None:
    first, second = (one.uid for one in site.series)
    with site.on() as url:
        upload(url, site.folder / "dicom")
        for number, broken in ((0, True), (1, False)):
            made = write_segmentation(
                drawn(number), LABELS, site.series[number], ResultOrigin(LABEL, "by hand")
            )
            made.Manufacturer = "a viewer"
            odd = pydicom.dcmread(_file(made))
            if broken:
                spoil(odd)
            assert requests.post(f"{url}/instances", data=_file(odd).read(), timeout=30).ok
        for store in (site.open(), site.open()):  # and after a restart
            ask(store, lambda: store.get_labeled_images() == [second])  # noqa: B023
            assert sorted(store.list_images()) == sorted([first, second])
            assert store.get_unlabeled_images() == [first]
        told = store.get_image_info(first).get("label_refused", "")
        assert bool(told) == (spoil is not without_reference)  # it is of no scan


def _file(dataset: Any) -> BytesIO:
    raw = BytesIO()
    dataset.save_as(raw, write_like_original=False)
    raw.seek(0)
    return raw
