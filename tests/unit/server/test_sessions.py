import io
import stat
import time

import pytest
from fastapi import UploadFile

from uncol.errors import RequestError
from uncol.server.sessions import RECORD, Sessions


def upload(name, content=b"scan"):
    return UploadFile(io.BytesIO(content), filename=name)


@pytest.fixture
def sessions(tmp_path):
    return Sessions(tmp_path / "sessions", longest_s=600, limit_bytes=2**20)


def test_an_upload_is_kept_for_its_user_alone_and_goes(sessions, tmp_path) -> None:
    made = sessions.add([upload("scan.nii.gz")], unpacked=False, expiry=0)
    path = sessions.image(made)
    assert path.read_bytes() == b"scan"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sessions.get(made.name).name == made.name
    assert sessions.remove(made.name) is not None
    assert not list((tmp_path / "sessions").iterdir())
    assert sessions.get(made.name) is None


def test_several_files_are_one_folder(sessions) -> None:
    made = sessions.add([upload("1.dcm"), upload("2.dcm")], unpacked=False, expiry=0)
    assert sorted(path.name for path in sessions.image(made).iterdir()) == ["1.dcm", "2.dcm"]


@pytest.mark.parametrize("name", ["..", ".", "", "/", ".hidden", "a\x00b", "x" * 300])
def test_an_odd_file_name_is_refused_and_nothing_stays(sessions, tmp_path, name) -> None:
    with pytest.raises(RequestError, match="file name"):
        sessions.add([upload("good.nii"), upload(name)], unpacked=False, expiry=0)
    assert not list((tmp_path / "sessions").iterdir())


def test_two_files_of_one_name_are_refused(sessions, tmp_path) -> None:
    with pytest.raises(RequestError, match="same name"):
        sessions.add([upload("a.nii"), upload("x/a.nii")], unpacked=False, expiry=0)
    assert not list((tmp_path / "sessions").iterdir())


def test_of_a_path_the_name_is_taken(sessions) -> None:
    made = sessions.add([upload("C:\\scans\\a.nii")], unpacked=False, expiry=0)
    assert made.image == "a.nii"


def test_a_bad_archive_leaves_nothing(sessions, tmp_path) -> None:
    with pytest.raises(RequestError, match="unpacked"):
        sessions.add([upload("x.zip", b"junk")], unpacked=True, expiry=0)
    assert not list((tmp_path / "sessions").iterdir())


@pytest.mark.parametrize("name", ["../x", "/etc", "", ".", "..", "none", "a/b", "\x00"])
def test_a_session_that_is_none_is_none(sessions, name) -> None:
    assert sessions.get(name) is None
    assert sessions.remove(name) is None


def test_use_keeps_it_and_time_ends_it(sessions, monkeypatch) -> None:
    made = sessions.add([upload("a.nii")], unpacked=False, expiry=100)
    start = time.time()
    monkeypatch.setattr(time, "time", lambda: start + 90)
    assert sessions.get(made.name, used=True)
    monkeypatch.setattr(time, "time", lambda: start + 180)
    sessions.sweep()
    assert sessions.get(made.name, used=False)
    monkeypatch.setattr(time, "time", lambda: start + 300)
    sessions.sweep()
    assert sessions.get(made.name) is None


def test_what_arrives_just_now_is_not_swept(sessions, tmp_path) -> None:
    arriving = tmp_path / "sessions" / "0b1c" / "content"
    arriving.mkdir(parents=True)
    sessions.sweep()
    assert arriving.exists()


@pytest.mark.parametrize(
    "record", [None, "", "{", '{"name": "x", "image": "../../x", "expiry": 60}', "[]"]
)
def test_what_an_earlier_server_left_half_done_is_swept_at_start(tmp_path, record) -> None:
    home = tmp_path / "sessions" / "0b1c"
    home.mkdir(parents=True)
    if record is not None:
        (home / RECORD).write_text(record)
    Sessions(tmp_path / "sessions", longest_s=600, limit_bytes=1)
    assert not home.exists()
