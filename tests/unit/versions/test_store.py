import json
import threading

import pytest
import torch

from uncol.errors import RequestError, StorageError, WeightsError
from uncol.networks.student import Student
from uncol.training.presets import PRESETS
from uncol.versions import store as versions
from uncol.versions.gate import accuracy
from uncol.versions.manifest import Manifest, Plan, Verdict
from uncol.versions.report import list_versions, show_version
from uncol.versions.store import ModelStore

SPEC = PRESETS["tiny3d"].spec


def manifest() -> Manifest:
    return Manifest(
        created="2026-01-01T00:00:00+00:00",
        labels={"a": 1},
        preset="tiny3d",
        spec=SPEC,
        window=(16, 16, 16),
        axcodes="RAS",
        spacing_mm=(1.0, 1.0, 1.0),
        modality="mr",
        mode="intended",
        generalist="none",
        seed=0,
        cases={},
        packages={},
        plan=Plan(1, 1, 1, 1, 1),
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
    assert not list((tmp_path / "uncol" / "versions").glob(".partial*"))
    store.load(1)


def test_a_version_that_is_served_is_not_said_to_be_unpublished(tmp_path, monkeypatch) -> None:
    store = ModelStore(tmp_path)

    def full(path, text):
        raise StorageError(f"Could not write {path}")

    monkeypatch.setattr(versions, "append_line", full)
    with pytest.raises(StorageError) as told:  # the note alone is missing
        store.publish(student(1), manifest())
    assert store.current() == 1
    assert "unchanged" not in str(told.value)


def test_damaged_weights_are_named(tmp_path) -> None:
    store = ModelStore(tmp_path)
    store.publish(student(1), manifest())
    path = tmp_path / "uncol" / "versions" / "1" / "student.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="version 1"):
        store.load(1)


def test_weights_of_another_size_are_refused(tmp_path) -> None:
    store = ModelStore(tmp_path)
    store.publish(student(1), manifest())
    path = tmp_path / "uncol" / "versions" / "1" / "manifest.json"
    told = json.loads(path.read_text())
    told["labels"] = {"a": 1, "b": 2}
    path.write_text(json.dumps(told))
    with pytest.raises(WeightsError, match="wrong shape"):
        store.load(1)


def test_a_version_of_before_drops_no_pieces_and_mixed_its_crops(tmp_path) -> None:
    store = ModelStore(tmp_path)
    store.publish(
        student(1), manifest().model_copy(update={"one_piece": ((1,),), "mix_until": 0.5})
    )
    assert (store.manifest(1).one_piece, store.manifest(1).mix_until) == (((1,),), 0.5)
    path = tmp_path / "uncol" / "versions" / "1" / "manifest.json"
    told = json.loads(path.read_text())
    del told["single"], told["mix_until"]
    path.write_text(json.dumps(told))
    assert (store.manifest(1).one_piece, store.manifest(1).mix_until) == ((), 1.0)


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


def refused(reason="worse"):
    return manifest().model_copy(update={"gate": Verdict(published=False, reason=reason)})


def test_a_refused_version_is_kept_and_not_served(tmp_path) -> None:
    store = ModelStore(tmp_path)
    store.publish(student(1), manifest())
    assert store.publish(student(2), refused()) == 2
    assert store.current() == 1
    assert store.load(2)[1].gate.reason == "worse"
    assert [one["event"] for one in store.events()] == ["published", "refused"]


def test_one_can_go_back_and_forth(tmp_path) -> None:
    store = ModelStore(tmp_path)
    for number in (1, 2):
        store.publish(student(number), manifest())
    store.publish(student(3), refused())
    store.publish(student(4), manifest())
    assert store.rollback() == store.current() == 2  # 3 was never served
    assert store.rollback() == store.current() == 1
    with pytest.raises(RequestError, match="no version before 1"):
        store.rollback()
    assert store.rollback(3) == store.current() == 3  # whoever asks for it by its number
    with pytest.raises(RequestError, match="there are: 1, 2, 3, 4"):
        store.rollback(9)


def test_going_back_to_a_damaged_version_changes_nothing(tmp_path) -> None:
    store = ModelStore(tmp_path)
    for number in (1, 2):
        store.publish(student(number), manifest())
    (tmp_path / "uncol" / "versions" / "1" / "student.safetensors").write_bytes(b"garbage")
    with pytest.raises(WeightsError):
        store.rollback(1)
    assert store.current() == 2


def test_old_versions_are_deleted_but_never_the_served_one_nor_a_number_used_twice(
    tmp_path,
) -> None:
    store = ModelStore(tmp_path)
    for number in range(1, 6):
        store.publish(student(number), manifest())
        store.folder.notes(number).folder.mkdir(parents=True)
    store.rollback(2)
    assert store.gc(keep=1) == [1, 3, 4]
    assert store.versions() == [2, 5]
    assert not store.folder.notes(3).folder.exists()
    assert store.load(2)
    store.rollback(2)
    assert store.gc(keep=1) == []
    assert store.publish(student(6), manifest()) == 6
    assert list((tmp_path / "uncol" / "versions").glob(".partial*")) == []


def test_what_is_told_of_versions(tmp_path) -> None:
    store = ModelStore(tmp_path)
    made = manifest().model_copy(
        update={
            "cases": {"labeled": ["a"], "unlabeled": [], "held_out": ["b"]},
            "accuracy": accuracy({"b": {"a": 0.8}}, source="held_out"),
        }
    )
    store.publish(student(1), made)
    store.publish(
        student(2),
        made.model_copy(update={"gate": Verdict(published=False, reason="Not published: 0.7")}),
    )
    (tmp_path / "uncol" / "versions" / "3").mkdir()
    first, second, third = list_versions(store)
    assert first.served
    assert first.dice == 0.8
    assert second.gate == "Not published: 0.7"
    assert "cannot be read" in third.error
    assert show_version(store, 2)["events"][0]["event"] == "refused"
    with pytest.raises(RequestError):
        show_version(store, 9)


def test_a_version_that_is_served_again_scores_the_cases_anew(tmp_path) -> None:
    """What annotators see of them, pre-labels and maps, is still the later version's."""
    store = ModelStore(tmp_path)
    for number in (1, 2):
        store.publish(student(number), manifest())
    kept, again = store.folder.notes(1).calibration, store.folder.notes(1).scores
    for path in (kept, again):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    store.rollback(1)
    assert kept.exists()
    assert not again.exists()
