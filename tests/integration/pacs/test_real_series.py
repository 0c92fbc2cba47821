"""Scanners' own files in a real PACS: oblique T2 MR with 3 mm slices, a sagittal one, a CT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from scipy.ndimage import gaussian_filter

from uncol.data.scan import read_label, read_scan, write_volume
from uncol.dicom.parametric_map import read_map
from uncol.dicom.segmentation import LABEL, ResultOrigin, read_segmentation, write_segmentation
from uncol.versions.metrics import dice_per_label

pytestmark = [pytest.mark.integration]

FAT = {"fat": 1}


@pytest.fixture(scope="module")
def client(real_hospital: Any, slicer_client: Any, tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("slicer")
    return slicer_client(real_hospital.url, tmpdir=str(folder), client_id="user-slicer")


@pytest.fixture(scope="module")
def scans(real_hospital: Any, client: Any) -> dict[str, Any]:
    """Every series as Slicer opens it."""
    objects = client.datastore()["objects"]
    assert set(objects) == set(real_hospital.series)
    return {case: read_scan(fetched(client, case)) for case in objects}


def fetched(client: Any, case: str) -> Path:
    name = f"/datastore/image?image={case}"
    reply = requests.get(client._server_url + name, timeout=120)
    assert reply.ok, reply.text
    path = Path(client._tmpdir) / f"{case}.nii.gz"
    path.write_bytes(reply.content)
    return path


def mr(hospital: Any) -> list[str]:
    return [case for case, one in hospital.series.items() if one.headers[0].Modality == "MR"]


def bright(volume: Any) -> np.ndarray:
    """Fat is the brightest tissue of T2 scans: a label that the anatomy itself draws."""
    smooth = gaussian_filter(volume.array, np.array([1.5, 1.5, 1.5]) / volume.grid.spacing_mm)
    return (smooth > np.quantile(smooth, 0.85)).astype(np.uint8)


def test_ct_and_mr_series_are_listed_and_opened(real_hospital: Any, scans: dict[str, Any]) -> None:
    for case, series in real_hospital.series.items():
        assert scans[case].grid.matches(series.grid, tolerance_voxels=1e-3)
    modalities = {one.headers[0].Modality for one in real_hospital.series.values()}
    assert modalities == {"CT", "MR"}


def test_a_label_from_slicer_returns_from_the_pacs_voxel_by_voxel(
    real_hospital: Any, scans: dict[str, Any], tmp_path: Path
) -> None:
    for case, volume in scans.items():
        label = bright(volume)
        write_volume(tmp_path / "label.nii.gz", label, volume.grid)
        real_hospital.submit(case, tmp_path / "label.nii.gz", FAT)
        stored = [s for s in real_hospital.instances("SEG") if of(s) == case][-1]
        array, names = read_segmentation(stored, real_hospital.series[case].grid)
        np.testing.assert_array_equal(array == names["fat"], label == 1)
        np.testing.assert_array_equal(real_hospital.final(case), label)


def test_a_label_stored_by_a_viewer_returns_voxel_by_voxel(
    real_hospital: Any, scans: dict[str, Any]
) -> None:
    for case, volume in scans.items():
        label = bright(volume)
        label[: label.shape[0] // 2] = 0
        drawn = write_segmentation(
            label, FAT, real_hospital.series[case], ResultOrigin(LABEL, "drawn")
        )
        drawn.Manufacturer = "A viewer"
        real_hospital.store(drawn)
        np.testing.assert_array_equal(real_hospital.final(case), label)


@pytest.mark.slow
def test_the_student_s_mask_and_map_sit_on_the_anatomy(
    real_hospital: Any, scans: dict[str, Any], client: Any, tmp_path: Path
) -> None:
    """Trained on two axial scans, asked for a sagittal one: right only in patient coordinates."""
    hospital = real_hospital
    sagittal = max(mr(hospital), key=lambda case: abs(hospital.series[case].grid.affine[0, 2]))
    for case, volume in scans.items():
        if case in mr(hospital) and case != sagittal:
            write_volume(tmp_path / "label.nii.gz", bright(volume), volume.grid)
            hospital.submit(case, tmp_path / "label.nii.gz", FAT)
        else:
            asked = {"id": case, "tag": "final"}
            assert requests.delete(f"{hospital.url}/datastore/label", params=asked, timeout=60).ok
    hospital.train(step_scale=0.25)
    wanted = {"result_extension": ".nrrd", "save_label": True, "to_pacs": True}
    file, told = client.infer("uncol", sagittal, wanted)
    label, truth = read_label(file).array, bright(scans[sagittal])
    dice = dice_per_label(label, truth, FAT)["fat"]
    assert dice > 0.5
    for axis in range(3):  # mirrored it would fit worse
        assert dice_per_label(np.flip(label, axis), truth, FAT)["fat"] < dice - 0.1

    series = hospital.series[sagittal]
    mask = next(
        s for s in hospital.instances("SEG") if s.SeriesInstanceUID == told["pacs"]["student"]
    )
    array, names = read_segmentation(mask, series.grid)
    np.testing.assert_array_equal(array == names["fat"], label == 1)
    kept = read_scan(client.download_label(sagittal, "uncertainty")).array
    stored = hospital.instances("OT")[-1]
    np.testing.assert_array_equal(read_map(stored, series.grid), kept)
    for axis in range(3):  # unsure where it is wrong, and not there where a mirrored map would be
        turned = np.flip(kept, axis)
        gap = kept[label != truth].mean() - kept[label == truth].mean()
        assert gap > 0.1
        assert gap > turned[label != truth].mean() - turned[label == truth].mean() + 0.05


def of(dataset: Any) -> str:
    return str(dataset.ReferencedSeriesSequence[0].SeriesInstanceUID)
