import os
import time

import numpy as np

from uncol.storage.trim import OLD_S, trim


def make(folder, name, size, age_s=0.0):
    path = folder / name
    path.write_bytes(b"x" * size)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_least_recently_used_go_first(tmp_path):
    for number in range(5):
        make(tmp_path, f"{number}.npy", 10, age_s=100 - number)
    trim(tmp_path, 25)
    assert names(tmp_path) == ["3.npy", "4.npy"]
    trim(tmp_path, 25)
    assert names(tmp_path) == ["3.npy", "4.npy"]


def test_what_a_killed_process_left_goes_and_what_is_being_written_stays(tmp_path):
    make(tmp_path, "a.1.partial", 10, age_s=2 * OLD_S)
    make(tmp_path, "b.2.partial", 10)
    trim(tmp_path, 0)
    assert names(tmp_path) == ["b.2.partial"]


def test_another_process_may_delete_at_the_same_time(tmp_path, monkeypatch):
    first = make(tmp_path, "a.npy", 10)
    make(tmp_path, "b.npy", 10)
    paths = list(tmp_path.iterdir())
    monkeypatch.setattr(type(tmp_path), "iterdir", lambda _: iter(paths))
    first.unlink()
    trim(tmp_path, 0)
    assert not any(path.exists() for path in paths)


def test_a_mapped_scan_stays_readable(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(10))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    trim(tmp_path, 0)
    assert names(tmp_path) == []
    assert int(mapped.sum()) == 45


def test_hidden_files_and_folders_are_left_alone(tmp_path):
    make(tmp_path, ".seen-1", 10)
    (tmp_path / "folder").mkdir()
    make(tmp_path / "folder", "a.npy", 10)
    make(tmp_path, "b.npy", 10)
    trim(tmp_path, 0)
    assert names(tmp_path) == [".seen-1", "folder"]
    assert names(tmp_path / "folder") == ["a.npy"]
