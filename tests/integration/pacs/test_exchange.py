"""A real PACS (Orthanc) behind the real server: what one stores there, the other takes up."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests

from uncol.data.scan import read_label, read_scan, write_volume
from uncol.demo.server import running_server
from uncol.dicom.parametric_map import read_map
from uncol.dicom.segmentation import LABEL, ResultOrigin, read_segmentation, write_segmentation
from uncol.versions.metrics import dice_per_label

pytestmark = [pytest.mark.integration]

SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8"}
LABELS = {"cerebellum": 1, "brainstem": 2}


@pytest.fixture(scope="module")
def client(hospital: Any, slicer_client: Any, tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("slicer")
    return slicer_client(hospital.url, tmpdir=str(folder), client_id="user-slicer")


def test_slicer_gets_a_series_as_the_volume_it_is(hospital: Any, client: Any) -> None:
    assert client.info()["datastore"]["total"] == 5  # MONAI Label's own filter would find no MR
    found = client.next_sample("uncol", {})
    series = hospital.series[found["id"]]
    volume = read_scan(found["path"])
    assert volume.grid.matches(series.grid, tolerance_voxels=1e-3)
    assert not np.allclose(series.grid.affine[:3, :3], np.diag(np.diag(series.grid.affine)[:3]))
    assert max(series.grid.spacing_mm) / min(series.grid.spacing_mm) > 2
    for word in ("Modality", "StudyDate", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"):
        assert found[word] not in ("", "UNK")  # OHIF reads these


def test_a_label_from_slicer_is_a_segmentation_in_the_pacs_at_once(
    hospital: Any, client: Any, tmp_path: Path
) -> None:
    case = next(iter(hospital.series))
    truth, grid = hospital.label(case), hospital.series[case].grid
    swapped = np.choose(truth, [0, 2, 1]).astype(np.uint8)  # segments in another order
    write_volume(tmp_path / "label.nii.gz", swapped, grid)
    info = [{"name": "brainstem", "idx": 1}, {"name": "cerebellum", "idx": 2}]
    client.save_label(case, str(tmp_path / "label.nii.gz"), params={"label_info": info})
    assert hospital.status()["completed"] == 1
    (stored,) = hospital.instances("SEG")
    assert stored.ReferencedSeriesSequence[0].SeriesInstanceUID == case
    assert [s.SegmentLabel for s in stored.SegmentSequence] == list(LABELS)
    codes = {s.SegmentedPropertyTypeCodeSequence[0].CodeValue for s in stored.SegmentSequence}
    assert codes == {"113305005", "119238007"}  # SNOMED CT, after PS3.16
    array, names = read_segmentation(stored, grid)
    for name, value in LABELS.items():
        np.testing.assert_array_equal(array == names[name], truth == value)


def test_a_segmentation_stored_by_a_viewer_is_a_label_at_once(hospital: Any, client: Any) -> None:
    case = list(hospital.series)[1]
    truth = hospital.label(case).astype(np.uint8)
    before = hospital.status()["completed"]
    drawn = write_segmentation(truth, LABELS, hospital.series[case], ResultOrigin(LABEL, "by hand"))
    drawn.Manufacturer = "Open Health Imaging Foundation"
    hospital.store(drawn)
    assert hospital.status()["completed"] == before + 1
    np.testing.assert_array_equal(read_label(client.download_label(case, "final")).array, truth)


def test_the_later_of_two_labels_counts_whoever_made_it(hospital: Any, client: Any) -> None:
    case = list(hospital.series)[1]
    truth = hospital.label(case).astype(np.uint8)
    changed = truth.copy()
    changed[truth.shape[0] // 2 :] = 0
    drawn = write_segmentation(changed, LABELS, hospital.series[case], ResultOrigin(LABEL, "again"))
    hospital.store(drawn)
    hospital.status()
    time.sleep(1.1)
    hospital.status()
    np.testing.assert_array_equal(read_label(client.download_label(case, "final")).array, changed)
    path = hospital.folder / "again.nii.gz"
    write_volume(path, truth, hospital.series[case].grid)
    info = [{"name": name, "idx": value} for name, value in LABELS.items()]
    client.save_label(case, str(path), params={"label_info": info})
    hospital.status()
    np.testing.assert_array_equal(read_label(client.download_label(case, "final")).array, truth)


def test_a_segmentation_of_unknown_structures_is_told_and_changes_nothing(
    hospital: Any, client: Any
) -> None:
    case = list(hospital.series)[1]
    truth = hospital.label(case).astype(np.uint8)
    before = hospital.status()["completed"]
    other = write_segmentation(
        truth, {"spleen": 1}, hospital.series[case], ResultOrigin(LABEL, "x")
    )
    hospital.store(other)
    time.sleep(1.1)
    assert hospital.status()["completed"] == before
    np.testing.assert_array_equal(read_label(client.download_label(case, "final")).array, truth)
    told = client.datastore()["objects"][case]["image"]["info"]["label_refused"]
    assert "spleen" in told
    assert "cerebellum" in told


def test_a_cropped_resampled_segmentation_is_put_on_the_scans_grid(hospital: Any) -> None:
    """As another tool may write it: half the rows and columns, some slices only."""
    case = list(hospital.series)[1]
    series, truth = hospital.series[case], hospital.label(case).astype(np.uint8)
    drawn = write_segmentation(truth, LABELS, series, ResultOrigin(LABEL, "x"))
    frames = drawn.pixel_array[:, ::2, ::2]
    drawn.Rows, drawn.Columns = frames.shape[1:]
    drawn.PixelData = pydicom.pixel_data_handlers.pack_bits(frames.ravel())
    shared = drawn.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    measures.PixelSpacing = [2 * float(size) for size in measures.PixelSpacing]
    array, names = read_segmentation(drawn, series.grid)
    mapped = {name: names[name] for name in LABELS}
    back = np.zeros_like(truth)
    for name, value in LABELS.items():
        back[array == mapped[name]] = value
    assert min(dice_per_label(back, truth, LABELS).values()) > 0.85
    with pytest.raises(AssertionError):  # and it is not simply a copy
        np.testing.assert_array_equal(back, truth)


@pytest.mark.slow
def test_training_scoring_and_results_in_the_pacs(trained_hospital: Any, client: Any) -> None:
    hospital = trained_hospital
    end = time.monotonic() + 300

    # scored in the background, label and map stored in the PACS, none of them counts as a label
    waiting = list(hospital.series)[3:]
    while len(hospital.find("OT")) < len(waiting):
        assert time.monotonic() < end
        time.sleep(2)
    time.sleep(2)
    assert hospital.status()["completed"] == 3
    unseen = waiting[0]
    series, truth = hospital.series[unseen], hospital.label(unseen)
    file, params = client.infer("uncol", unseen, {**SLICER, "save_label": True, "to_pacs": True})
    label = read_label(file).array
    assert np.mean(list(dice_per_label(label, truth, LABELS).values())) > 0.4
    kept = read_scan(client.download_label(unseen, "uncertainty")).array
    maps = [m for m in hospital.instances("OT") if _of(m) == unseen]
    students = [
        s for s in hospital.instances("SEG") if _of(s) == unseen and s.ContentLabel == "STUDENT"
    ]
    assert len(maps) == len(students) == 2  # DICOMweb has no deleting; the later supersedes
    for stored in (maps[-1], students[-1]):
        before = stored.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
        assert before.SeriesInstanceUID in (
            maps[0].SeriesInstanceUID, students[0].SeriesInstanceUID,
        )  # fmt: skip
    assert params["pacs"]["uncertainty"] == maps[-1].SeriesInstanceUID
    np.testing.assert_array_equal(read_map(maps[-1], series.grid), kept)
    array, names = read_segmentation(students[-1], series.grid)
    for name, value in LABELS.items():
        np.testing.assert_array_equal(array == names.get(name, -1), label == value)

    # what Slicer loads with Next Sample is there
    saved = client.datastore()["objects"][waiting[1]]["labels"]["original"]["info"]
    assert saved["params"]["label_names"] == LABELS

    # as one file, too
    info = [{"name": name, "idx": value} for name, value in LABELS.items()]
    reply = requests.post(
        f"{hospital.url}/infer/uncol",
        params={"image": unseen, "output": "dicom_seg"},
        data={"params": f'{{"label_info": {json.dumps(info)}}}'},
        timeout=120,
    )
    assert reply.ok, reply.text
    single = pydicom.dcmread(BytesIO(reply.content))
    assert single.Modality == "SEG"
    assert valid(maps[-1]) == valid(students[-1]) == []


def test_labels_come_back_after_a_restart_without_the_mirror(hospital: Any) -> None:
    labeled = hospital.labeled()
    assert labeled
    empty = hospital.folder / "another-cache"
    with running_server(
        hospital.web,
        model_dir=hospital.folder / "another-model",
        labels=",".join(LABELS),
        env={"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(empty)},
    ) as url:
        end = time.monotonic() + 60
        while requests.get(f"{url}/info/", timeout=60).json()["datastore"]["completed"] < len(
            labeled
        ):
            assert time.monotonic() < end
            time.sleep(1)
        restarted = replace(hospital, url=url)
        for case in labeled:
            np.testing.assert_array_equal(restarted.final(case), hospital.label(case))


def test_a_label_deleted_in_the_pacs_does_not_count_but_is_kept(hospital: Any) -> None:
    before = hospital.status()["completed"]
    case = next(iter(hospital.series))
    (stored,) = [s for s in hospital.instances("SEG") if _of(s) == case]
    found = requests.post(
        f"{hospital.pacs}/tools/lookup", data=stored.SeriesInstanceUID, timeout=30
    ).json()
    assert requests.delete(f"{hospital.pacs}/series/{found[0]['ID']}", timeout=30).ok
    end = time.monotonic() + 60  # a slow PACS is asked less often
    while hospital.status()["completed"] != before - 1:
        assert time.monotonic() < end
        time.sleep(1)
    labels = requests.get(f"{hospital.url}/datastore/?output=all", timeout=60).json()["objects"]
    assert "removed" in labels[case]["labels"]


def _of(dataset: pydicom.Dataset) -> str:
    return str(dataset.ReferencedSeriesSequence[0].SeriesInstanceUID)


def valid(dataset: pydicom.Dataset) -> list[str]:
    """The errors that dicom3tools' validator finds; none where it is not installed."""
    if shutil.which("dciodvfy") is None:
        return []
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        dataset.save_as(file.name)
        command = ["dciodvfy", "-new", file.name]
        said = subprocess.run(command, capture_output=True, check=False)
    return [line for line in said.stderr.decode().splitlines() if line.startswith("Error")]
