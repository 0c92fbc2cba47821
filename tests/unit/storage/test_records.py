import sqlite3

import pytest
from pydantic import BaseModel

from uncol.errors import StorageError
from uncol.storage.records import Records


class Note(BaseModel):
    text: str


def test_what_was_put_is_there_after_a_restart(tmp_path) -> None:
    path = tmp_path / "notes.sqlite"
    Records(path, Note).put({"a": Note(text="1"), "b": Note(text="2")})
    again = Records(path, Note)
    again.put({"a": Note(text="3")})
    assert again.get("a") == Note(text="3")
    assert Records(path, Note, read_only=True).all() == {"a": Note(text="3"), "b": Note(text="2")}
    assert again.get("c") is None


def test_a_record_of_another_kind_is_left_out_and_the_rest_stays(tmp_path, caplog) -> None:
    path = tmp_path / "notes.sqlite"
    Records(path, Note).put({"a": Note(text="1")})
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO records VALUES ('b', '{}')")
    connection.close()
    assert Records(path, Note).all() == {"a": Note(text="1")}
    assert "left out" in caplog.text


def test_a_file_that_is_none_is_said(tmp_path) -> None:
    (tmp_path / "notes.sqlite").write_text("no database" * 100)
    with pytest.raises(StorageError, match=r"notes.sqlite"):
        Records(tmp_path / "notes.sqlite", Note)


def test_readers_of_a_folder_without_records_find_none(tmp_path) -> None:
    assert Records(tmp_path / "none.sqlite", Note, read_only=True).all() == {}
