import os
import sqlite3
import threading

import pytest
from pydantic import BaseModel

from uncol.errors import StorageError
from uncol.storage.database import Database, Table


class Note(BaseModel):
    text: str


def opened(path, **options):
    notes, more = Table("notes", Note), Table("more", Note)
    return notes, more, Database(path, (notes, more), **options)


def put(database, table, **rows):
    with database.change() as change:
        for key, text in rows.items():
            change.put(table, key, Note(text=text))


def test_what_was_put_is_there_after_a_restart(tmp_path) -> None:
    path = tmp_path / "notes.sqlite"
    notes, more, database = opened(path)
    assert database.fresh
    put(database, notes, a="1", b="2")
    with database.change() as change:
        change.put(notes, "a", Note(text="3"))
        change.drop(notes, "b")
        change.put(more, "a", Note(text="4"))
        assert change.get(notes, "a") == Note(text="3")
        assert notes.get("a") == Note(text="1")
    again, others, reopened = opened(path)
    assert not reopened.fresh
    assert again.all() == {"a": Note(text="3")}
    assert others.all() == {"a": Note(text="4")}
    assert opened(path, read_only=True)[0].all() == again.all()


def test_a_change_whose_body_fails_changes_nothing(tmp_path) -> None:
    notes, _, database = opened(tmp_path / "notes.sqlite")
    put(database, notes, a="1")

    def fail() -> None:
        with database.change() as change:
            change.put(notes, "a", Note(text="2"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert notes.all() == {"a": Note(text="1")}
    put(database, notes, b="2")
    assert opened(tmp_path / "notes.sqlite")[0].all() == notes.all()


def test_a_full_disk_changes_nothing_and_is_said(tmp_path) -> None:
    notes, _, database = opened(tmp_path / "notes.sqlite")
    put(database, notes, a="1")
    (pages,) = database._connection.execute("PRAGMA page_count").fetchone()
    database._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StorageError, match=r"full.*Free some disk space"):
        put(database, notes, **{f"k{n}": "x" * 1000 for n in range(20)})
    assert notes.all() == {"a": Note(text="1")}
    assert opened(tmp_path / "notes.sqlite")[0].all() == notes.all()


def test_two_processes_see_what_the_other_wrote(tmp_path) -> None:
    path = tmp_path / "notes.sqlite"
    notes, _, one = opened(path)
    others, _, two = opened(path)
    put(one, notes, a="1")
    assert others.all() == {}
    two.refresh()
    assert others.all() == {"a": Note(text="1")}
    put(one, notes, a="2")
    put(two, others, b="3")  # a change begins with what others have written
    assert others.all() == {"a": Note(text="2"), "b": Note(text="3")}


def test_threads_wait_for_each_other(tmp_path) -> None:
    notes, _, database = opened(tmp_path / "notes.sqlite")
    put(database, notes, count="0")

    def count() -> None:
        for _ in range(20):
            with database.change() as change:
                number = int(change.get(notes, "count").text)
                change.put(notes, "count", Note(text=str(number + 1)))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes.get("count") == Note(text="80")


def test_a_row_of_another_kind_is_left_out_and_the_rest_stays(tmp_path, caplog) -> None:
    path = tmp_path / "notes.sqlite"
    notes, _, database = opened(path)
    put(database, notes, a="1")
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO notes VALUES ('b', '{}')")
    connection.close()
    assert opened(path)[0].all() == {"a": Note(text="1")}
    assert "left out" in caplog.text


@pytest.mark.parametrize("damage", ["text", "header", "middle", "empty"])
def test_a_damaged_file_is_set_aside(tmp_path, damage) -> None:
    path = tmp_path / "notes.sqlite"
    notes, _, database = opened(path)
    put(database, notes, **{f"k{n}": "x" * 500 for n in range(50)})
    database.close()
    content = bytearray(path.read_bytes())
    if damage == "text":
        content = bytearray(b"no database" * 100)
    elif damage == "header":
        content[:100] = os.urandom(100)
    elif damage == "middle":
        content[4096:12288] = os.urandom(8192)
    else:
        content = bytearray()
    path.write_bytes(content)
    again, _, reopened = opened(path)
    assert again.all() == {}
    if damage != "empty":  # an empty file is an empty database
        assert reopened.set_aside.read_bytes() == content
        assert reopened.fresh
    put(reopened, again, a="1")
    assert opened(path)[0].all() == {"a": Note(text="1")}


def test_a_newer_version_s_file_is_left_alone(tmp_path) -> None:
    path = tmp_path / "notes.sqlite"
    opened(path)[2].close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StorageError, match="newer version"):
        opened(path)


def test_a_file_that_goes_while_it_is_open_takes_no_changes(tmp_path) -> None:
    path = tmp_path / "notes.sqlite"
    notes, _, database = opened(path)
    put(database, notes, a="1")
    path.rename(tmp_path / "away")
    assert not database.is_there
    with pytest.raises(StorageError, match="still mounted"):
        put(database, notes, a="2")
    assert notes.all() == {"a": Note(text="1")}
    (tmp_path / "away").rename(path)
    put(database, notes, a="3")
    assert opened(path)[0].all() == {"a": Note(text="3")}


def test_readers_change_their_own_view_alone(tmp_path) -> None:
    path = tmp_path / "notes.sqlite"
    assert opened(tmp_path / "none.sqlite", read_only=True)[0].all() == {}
    assert not (tmp_path / "none.sqlite").exists()
    notes, _, database = opened(path)
    put(database, notes, a="1")
    seen, _, reader = opened(path, read_only=True)
    put(reader, seen, a="2")
    assert seen.all() == {"a": Note(text="2")}
    assert opened(path)[0].all() == {"a": Note(text="1")}
