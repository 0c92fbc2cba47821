import numpy as np
import pytest
from studies_folder import SCAN, open_folder, write

from uncol.data.labels import IGNORE_VALUE
from uncol.data.scan import read_scan
from uncol.errors import RequestError
from uncol.tasks import first_label as module
from uncol.tasks.first_label import FirstLabel
from uncol.tasks.infer import SegmentTask
from uncol.tasks.requests import InferRequest, InferWork
from uncol.tasks.served import ServedStudent
from uncol.versions.store import ModelStore

LABELS = {"a": 1, "b": 2}


@pytest.fixture
def folder(tmp_path):
    studies = tmp_path / "studies"
    studies.mkdir()
    for name, size in {"new": 6, "alike": 6, "short": 3, "shorter": 2, "second": 5}.items():
        write(studies / f"{name}.nii.gz", SCAN[:size])
    return studies


@pytest.fixture
def store(folder):
    return open_folder(folder)


@pytest.fixture
def first(store, monkeypatch):
    """One whose voxels tell how many were carried over; registration has its own tests."""
    monkeypatch.setattr(
        module, "carry", lambda atlases, scan: np.full(scan.grid.shape, len(atlases), np.uint8)
    )
    return FirstLabel(lambda: store, LABELS)


def submit(store, name, **changes):
    shape = read_scan(store.get_image_uri(name)).grid.shape
    label = np.ones(shape, np.uint8)
    label[0] = changes.get("first", 2)
    path = write(store._root.parent / "drawn.nii.gz", label)
    store.save_label(name, path, "final", {})


def scan_of(store, name="new"):
    return read_scan(store.get_image_uri(name), case=name)


def test_nothing_is_carried_over_from_nobody(store, first):
    assert first.of(scan_of(store), "new") is None
    submit(store, "new")
    assert first.of(scan_of(store), "new") is None  # its own annotation


def test_the_scans_most_alike_in_size_are_taken(store, first):
    for name in ("shorter", "short", "second", "alike"):
        submit(store, name)
    carried = first.of(scan_of(store), "new")
    assert carried.sources == ("alike", "second", "short")
    assert (carried.label == 3).all()


def test_what_is_annotated_in_part_or_damaged_is_left_out(store, first, folder):
    submit(store, "second", first=IGNORE_VALUE)
    submit(store, "short")
    submit(store, "alike")
    (folder / "labels" / "final" / "short.nii.gz").write_bytes(b"damaged")
    assert first.of(scan_of(store), "new").sources == ("alike",)


def test_scans_with_too_little_in_common_and_single_images_get_none(store, first, monkeypatch):
    submit(store, "alike")
    write(store._root / "flat.nii.gz", SCAN[:, :, :1])
    store.refresh()
    assert first.of(scan_of(store, "flat"), "flat") is None

    def fail(*_):
        raise RuntimeError("ITK ERROR: all samples map outside")

    monkeypatch.setattr(module, "carry", fail)
    assert first.of(scan_of(store), "new") is None


def test_it_answers_until_there_is_a_student_and_is_not_kept(store, first, tmp_path, monkeypatch):
    models = ModelStore(tmp_path / "model")
    served = ServedStudent(models, LABELS)
    task = SegmentTask(served, first=first, to_pacs=False, labels=LABELS, kind="", text="")

    def ask(**options):
        asked = InferRequest.of(options, list(LABELS))
        return task(InferWork(store._root / "new.nii.gz", "new", asked, tmp_path))

    with pytest.raises(RequestError, match="no trained model yet"):
        ask()
    submit(store, "alike")
    file, params = ask()
    assert file.exists()
    assert params["uncol"] == {"model_version": None, "carried_from": ("alike",)}
    assert params["label_names"] == LABELS
    with pytest.raises(RequestError, match="no trained model yet"):
        ask(save_label=True)
    monkeypatch.setattr(models, "current", lambda: 1)

    def student(_):
        raise InterruptedError

    monkeypatch.setattr(served, "get", student)
    with pytest.raises(InterruptedError):
        ask()
