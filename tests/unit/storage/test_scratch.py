import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from uncol.settings import REPOSITORY
from uncol.storage.scratch import LOCK, PREFIX, sweep

ENV = {**os.environ, "PYTHONPATH": str(REPOSITORY / "lib")}
CODE = """
import os, sys, tempfile
from uncol.storage.scratch import own_temporary_folder
folder = own_temporary_folder()
open(tempfile.mkstemp()[1], "w").write("x")
print(folder, tempfile.gettempdir(), flush=True)
if sys.argv[1] == "killed": os.kill(os.getpid(), 9)
"""


def run(system, how):
    done = subprocess.run(
        [sys.executable, "-c", CODE, how],
        env={**ENV, "TMPDIR": str(system)},
        capture_output=True,
        text=True,
        check=False,
    )
    folder, used = done.stdout.split()
    assert folder == used
    return Path(folder)


def test_temporary_files_go_with_their_process(tmp_path) -> None:
    folder = run(tmp_path, "ends")
    assert folder.parent == tmp_path / f"uncol-{os.getuid()}"
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert not folder.exists()


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path) -> None:
    left = run(tmp_path, "killed")
    assert list(left.iterdir())
    alive = left.parent / f"{PREFIX}alive"
    alive.mkdir()
    with FileLock(alive / LOCK):
        run(tmp_path, "ends")
    assert not left.exists()
    assert alive.exists()


def test_a_name_that_somebody_else_took_is_left_alone(tmp_path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    (tmp_path / f"uncol-{os.getuid()}").symlink_to(target)
    folder = run(tmp_path, "ends")
    assert not list(target.iterdir())
    assert folder.parent.parent == tmp_path


def test_sweeping_leaves_what_is_not_ours(tmp_path) -> None:
    (tmp_path / "notes").mkdir()
    sweep(tmp_path)
    assert (tmp_path / "notes").exists()
    assert tempfile.gettempdir()
