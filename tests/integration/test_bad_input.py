"""Bad input through HTTP: a clear error that names the case, and nothing lost."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests

from uncol.data.scan import read_label
from uncol.demo.server import running_server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(
    pool: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Path]]:
    """A server on a pool with good scans and one of each bad kind."""
    folder = tmp_path_factory.mktemp("bad")
    studies = folder / "studies"
    shutil.copytree(pool[0], studies)
    good = next(studies.glob("*.nii.gz"))
    scan = nib.load(good)
    data = scan.get_fdata(dtype=np.float32)
    (studies / "truncated.nii.gz").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (studies / "odd_nrrd.nrrd").write_bytes(b"NRRD0004\nnot really")
    (studies / "odd_png.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    nib.save(nib.Nifti1Image(np.zeros_like(data), scan.affine), studies / "empty.nii.gz")
    holes = data.copy()
    holes[2, 3, 4] = np.nan
    nib.save(nib.Nifti1Image(holes, scan.affine), studies / "holes.nii.gz")
    model = folder / "model"
    conf = {"preset": "tiny3d", "teacher": "none"}
    with running_server(studies, model_dir=model, labels=pool[2], conf=conf) as url:
        yield url, studies, pool[1]


def put_label(url: str, case: str, path: Path, info: list[dict[str, Any]] | None = None) -> Any:
    import json

    params = {"label_info": info} if info is not None else {}
    with path.open("rb") as stream:
        return requests.put(
            f"{url}/datastore/label",
            params={"image": case},
            data={"params": json.dumps(params)},
            files={"label": (path.name, stream)},
            timeout=60,
        )


def final_labels(url: str) -> int:
    return int(requests.get(f"{url}/datastore/", timeout=10).json()["completed"])


def good_case(studies: Path, truth: Path, place: int = 0) -> str:
    return sorted(path.name.removesuffix(".nii.gz") for path in truth.glob("*.nii.gz"))[place]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("truncated", "damaged"),
        ("odd_nrrd", "damaged"),
        ("odd_png", "damaged"),
        ("empty", "every voxel has the same value"),
        ("holes", "NaN or infinite"),
    ],
)
def test_a_bad_scan_is_refused_when_uploaded(
    server: tuple[str, Path, Path], case: str, words: str
) -> None:
    url, _, _ = server
    reply = requests.put(
        f"{url}/datastore/image",
        params={"image": f"copy_of_{case}"},
        files={"file": first_file(server[1], case)},
        timeout=30,
    )
    assert reply.status_code == 400
    assert f"copy_of_{case}" in reply.json()["detail"]
    assert words in reply.json()["detail"]
    assert not list(server[1].glob("copy_of_*"))


def first_file(studies: Path, case: str) -> tuple[str, bytes]:
    path = next(studies.glob(f"{case}.*"))
    return path.name, path.read_bytes()


def change(case: Callable[[np.ndarray], np.ndarray], source: Path, target: Path) -> Path:
    image = nib.load(source)
    nib.save(nib.Nifti1Image(case(np.asarray(image.dataobj)), image.affine), target)
    return target


def test_bad_labels_are_refused_and_the_good_one_stays(
    server: tuple[str, Path, Path], tmp_path: Path
) -> None:
    url, studies, truth = server
    case = good_case(studies, truth)
    source = truth / f"{case}.nii.gz"
    assert put_label(url, case, source).status_code == 200
    kept = (studies / "labels" / "final" / f"{case}.nii.gz").read_bytes()
    attempts = {
        "scan's grid": change(lambda a: a[:-1], source, tmp_path / "cut.nii.gz"),
        "no label of this app": change(lambda a: a * 7, source, tmp_path / "sevens.nii.gz"),
        "is empty": change(np.zeros_like, source, tmp_path / "nothing.nii.gz"),
        "whole numbers": change(lambda a: a * 0.5, source, tmp_path / "halves.nii.gz"),
    }
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(gzip.compress(b"no nifti"))
    attempts["damaged"] = broken
    for words, path in attempts.items():
        reply = put_label(url, case, path)
        assert reply.status_code == 400, words
        assert words in reply.json()["detail"]
        assert case in reply.json()["detail"]
        assert (studies / "labels" / "final" / f"{case}.nii.gz").read_bytes() == kept
    assert put_label(url, "nobody", source).status_code == 400
    assert final_labels(url) == 1


def test_segments_are_mapped_by_name_whatever_their_indices(
    server: tuple[str, Path, Path], tmp_path: Path
) -> None:
    """Slicer counts skipped segments in `idx`, while voxel values follow the exported order."""
    url, studies, truth = server
    case = good_case(studies, truth, 1)
    source = truth / f"{case}.nii.gz"
    names = requests.get(f"{url}/info/", timeout=10).json()["labels"]
    original = read_label(source).array
    swapped = change(lambda a: np.select([a == 1, a == 2], [2, 1], 0).astype(np.uint8),
                     source, tmp_path / "swapped.nii.gz")  # fmt: skip
    info = [{"name": names[1], "idx": 2}, {"name": names[0], "idx": 3}]  # a skipped one before
    assert put_label(url, case, swapped, info).status_code == 200
    stored = read_label(studies / "labels" / "final" / f"{case}.nii.gz").array
    np.testing.assert_array_equal(stored, original)

    unknown = put_label(url, case, source, [{"name": "spleen", "idx": 1}, {"name": "x", "idx": 2}])
    assert unknown.status_code == 400
    assert "spleen" in unknown.json()["detail"]
    np.testing.assert_array_equal(
        read_label(studies / "labels" / "final" / f"{case}.nii.gz").array, original
    )


def test_impossible_trainings_are_refused_with_the_remedy(server: tuple[str, Path, Path]) -> None:
    url, studies, _ = server
    for name in [path.name for path in (studies / "labels" / "final").glob("*.nii.gz")][1:]:
        case = name.removesuffix(".nii.gz")
        requests.delete(f"{url}/datastore/label", params={"id": case, "tag": "final"}, timeout=10)
    one = requests.post(f"{url}/train/uncol", json={}, timeout=30)
    assert one.status_code == 409
    assert "labeled cases" in one.json()["detail"]
    odd = requests.post(f"{url}/train/uncol", json={"step_scale": "fast"}, timeout=30)
    assert odd.status_code == 400
    assert "step_scale" in odd.json()["detail"]
    unknown = requests.post(f"{url}/train/other", json={}, timeout=30)
    assert unknown.status_code == 400


def test_unreadable_unlabeled_scans_are_left_out_with_the_reason(
    server: tuple[str, Path, Path],
) -> None:
    import time

    url, studies, truth = server
    for place in (0, 1):
        case = good_case(studies, truth, place)
        assert put_label(url, case, truth / f"{case}.nii.gz").status_code == 200
    assert requests.post(f"{url}/train/uncol", json={"step_scale": 0.01}, timeout=30).ok
    end = time.monotonic() + 300
    status = {"status": "RUNNING"}
    while time.monotonic() < end and status["status"] in ("RUNNING", "SUBMITTED"):
        time.sleep(1)
        status = requests.get(f"{url}/train/", timeout=30).json()
    assert status["status"] == "DONE", status["details"]
    info = requests.get(f"{url}/info/", timeout=10).json()
    left_out = [one["file"].split(".")[0] for one in info["datastore"]["left_out_files"]]
    left_out += info["train_stats"]["uncol"].get("left_out", [])
    assert {"truncated", "odd_nrrd", "odd_png", "empty", "holes"} <= set(left_out)
    for case, words in {"holes": "NaN", "empty": "same value", "truncated": "damaged"}.items():
        reply = requests.post(f"{url}/infer/uncol", params={"image": case}, timeout=60)
        assert reply.status_code == 400
        assert case in reply.json()["detail"]
        assert words in reply.json()["detail"]


def test_names_cannot_leave_the_studies_folder(server: tuple[str, Path, Path]) -> None:
    url, studies, truth = server
    case = good_case(studies, truth)
    with (truth / f"{case}.nii.gz").open("rb") as stream:
        reply = requests.put(
            f"{url}/datastore/label",
            params={"image": case, "tag": "../../evil"},
            files={"label": ("label.nii.gz", stream)},
            timeout=30,
        )
    assert reply.status_code == 400
    assert not (studies.parent / "evil").exists()
    reply = requests.post(f"{url}/infer/uncol", params={"image": "/etc/hostname"}, timeout=30)
    assert reply.status_code == 400


@pytest.mark.parametrize(
    ("model", "params", "told"),
    [
        ("uncol", '{"save_label": true, "label_tag": "final"}', "what a person has submitted"),
        ("uncol", '{"save_label": "true", "label_tag": "uncertainty"}', "under the tag 'original'"),
        ("uncol_uncertainty", '{"save_label": true}', "result is no label"),
        ("uncol_prompt", '{"save_label": true, "label_tag": "final"}', "result is no label"),
    ],
)
def test_an_infer_never_submits_a_label(
    server: tuple[str, Path, Path], model: str, params: str, told: str
) -> None:
    url, studies, truth = server
    before = final_labels(url)
    reply = requests.post(
        f"{url}/infer/{model}",
        params={"image": good_case(studies, truth)},
        data={"params": params},
        timeout=60,
    )
    assert reply.status_code == 400
    assert told in reply.json()["detail"]
    assert final_labels(url) == before


def test_another_scan_under_a_labeled_case_s_id_is_refused(
    server: tuple[str, Path, Path], tmp_path: Path
) -> None:
    url, studies, truth = server
    case = good_case(studies, truth)
    assert put_label(url, case, truth / f"{case}.nii.gz").ok
    before = final_labels(url)
    volume = nib.load(studies / f"{case}.nii.gz")
    other = tmp_path / "other.nii.gz"
    nib.save(nib.Nifti1Image(volume.get_fdata(dtype=np.float32) + 1, volume.affine), other)
    with other.open("rb") as stream:
        reply = requests.put(
            f"{url}/datastore/", params={"image": case}, files={"file": stream}, timeout=60
        )
    assert reply.status_code == 400
    assert f"There is a case '{case}' already" in reply.json()["detail"]
    assert final_labels(url) == before


def test_a_list_of_segments_that_is_none_is_told(server: tuple[str, Path, Path]) -> None:
    url, studies, truth = server
    case = good_case(studies, truth)
    info: Any = [{"name": "cerebellum", "idx": "one"}]
    reply = put_label(url, case, truth / f"{case}.nii.gz", info)
    assert reply.status_code == 400
    assert "must be a list of segments" in reply.json()["detail"]


def test_wrong_teacher_weights_are_named_and_the_server_lives_on(
    pool: tuple[Path, Path, str], tmp_path: Path
) -> None:
    weights = tmp_path / "other.pth"
    weights.write_bytes(b"no weights at all")
    studies = tmp_path / "studies"
    shutil.copytree(pool[0], studies)
    conf = {"teacher_weights": str(weights)}
    with running_server(studies, model_dir=tmp_path / "model", labels=pool[2], conf=conf) as url:
        case = good_case(studies, pool[1])
        reply = requests.post(
            f"{url}/infer/uncol_prompt",
            params={"image": case},
            data={"params": '{"roi": [5, 20, 5, 20, 5, 15]}'},
            timeout=120,
        )
        assert reply.status_code == 503
        assert "other.pth" in reply.json()["detail"]
        assert requests.get(f"{url}/info/", timeout=30).ok
