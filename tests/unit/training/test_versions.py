import json
import threading

import pytest
import torch

from uncol.errors import StorageError, WeightsError
from uncol.networks.presets import PRESETS
from uncol.networks.student import Student
from uncol.training import versions
from uncol.training.versions import Manifest, ModelStore, spec_to

SPEC = PRESETS["tiny3d"].spec


def manifest() -> Manifest:
    return Manifest(
        created="2026-01-01T00:00:00+00:00",
        labels={"a": 1},
        preset="tiny3d",
        spec=spec_to(SPEC),
        window=(16, 16, 16),
        axcodes="RAS",
        spacing_mm=(1.0, 1.0, 1.0),
        modality="mr",
        mode="intended",
        teacher="none",
        seed=0,
        cases={},
        metrics={},
        packages={},
        plan={},
    )


def student(seed: int) -> Student:
    torch.manual_seed(seed)
    return Student(SPEC, 2)


def test_a_published_student_comes_back_as_it_was(tmp_path) -> None:
    store = ModelStore(tmp_path)
    assert store.current() is None
    original = student(1)
    assert store.publish(original, manifest()) == 1
    loaded, told = store.load(1)
    assert told.version == store.current() == 1
    assert not loaded.training
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_versions_count_up_and_the_last_is_served(tmp_path) -> None:
    store = ModelStore(tmp_path)
    for number in (1, 2, 3):
        assert store.publish(student(number), manifest()) == number
    assert store.versions() == [1, 2, 3]
    assert store.current() == 3


def test_a_full_disk_leaves_the_served_version(tmp_path, monkeypatch) -> None:
    store = ModelStore(tmp_path)
    store.publish(student(1), manifest())

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(versions.safetensors.torch, "save_file", full)
    with pytest.raises(StorageError, match="served model is unchanged"):
        store.publish(student(2), manifest())
    assert store.current() == 1
    assert store.versions() == [1]
    assert not list((tmp_path / "versions").glob(".partial*"))
    store.load(1)


def test_damaged_weights_are_named(tmp_path) -> None:
    store = ModelStore(tmp_path)
    store.publish(student(1), manifest())
    path = tmp_path / "versions" / "1" / "student.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="version 1"):
        store.load(1)


def test_weights_of_another_size_are_refused(tmp_path) -> None:
    store = ModelStore(tmp_path)
    store.publish(student(1), manifest())
    path = tmp_path / "versions" / "1" / "manifest.json"
    told = json.loads(path.read_text())
    told["labels"] = {"a": 1, "b": 2}
    path.write_text(json.dumps(told))
    with pytest.raises(WeightsError, match="wrong shape"):
        store.load(1)


def test_a_reader_never_meets_half_a_version(tmp_path) -> None:
    store = ModelStore(tmp_path)
    store.publish(student(0), manifest())
    done = threading.Event()
    wrong: list[Exception] = []

    def read() -> None:
        while not done.is_set():
            try:
                version = store.current()
                assert version is not None
                store.load(version)
            except Exception as error:
                wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(8):
        store.publish(student(number), manifest())
    done.set()
    reader.join()
    assert wrong == []
    assert store.current() == 9
