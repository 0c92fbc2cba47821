import subprocess
import sys

import pytest

from uncol.errors import StorageError
from uncol.settings import REPOSITORY
from uncol.storage.model_folder import ModelFolder
from uncol.storage.owner import Project, hold

HOLD = """
import sys, pathlib
sys.path.insert(0, {lib!r})
from uncol.storage.model_folder import ModelFolder
from uncol.storage.owner import Project, dedicate, hold
folder, project = ModelFolder(pathlib.Path({folder!r})), Project(studies={studies!r})
hold(folder, project)
dedicate(folder, project)
print("held", flush=True)
input()
"""


def holder(folder, studies="/a"):
    code = HOLD.format(lib=str(REPOSITORY / "lib"), folder=str(folder), studies=studies)
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return child


def test_a_second_server_on_a_model_folder_is_refused_with_who_has_it(tmp_path) -> None:
    first = holder(tmp_path)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(StorageError, match=rf"process {first.pid} on .*model_dir"):
        hold(ModelFolder(tmp_path), Project(studies="/a"))
    first.kill()  # as a crash would
    first.communicate()
    second = holder(tmp_path)
    assert second.stdout.readline() == "held\n"
    second.communicate("\n")


def test_another_project_on_a_model_folder_is_refused_with_the_remedy(tmp_path) -> None:
    first = holder(tmp_path)
    assert first.stdout.readline() == "held\n"
    first.communicate("\n")
    with pytest.raises(StorageError, match=r"belongs to the studies at /a, not to /b.*model_dir"):
        hold(ModelFolder(tmp_path), Project(studies="/b"))
    ModelFolder(tmp_path).project.unlink()  # what the message says
    moved = holder(tmp_path, "/b")
    assert moved.stdout.readline() == "held\n"
    moved.communicate("\n")


def test_a_folder_that_cannot_be_written_is_said(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        hold(ModelFolder(tmp_path / "file"), Project(studies="/a"))
