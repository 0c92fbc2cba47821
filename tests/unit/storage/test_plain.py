import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monailabel.interfaces.datastore import DefaultLabelTag

from uncol.errors import RequestError
from uncol.storage.plain import (
    MOST_DEPTH,
    PlainName,
    check_notes,
    parse_json,
    parse_object,
    path_in,
    plain_name,
    shown,
)

EVIL = ["../x", "/etc/passwd", "a/b", "a\\b", ".", "..", ".hidden", "", "a\x00b", "a\nb", "x" * 300]
texts = st.text(st.characters(codec=None), max_size=40)  # halves of characters, too


@pytest.mark.parametrize("text", [*EVIL, "\udcfc", "é" * 150, None, 3, ["a"]])
def test_what_could_leave_its_folder_is_no_name(text) -> None:
    with pytest.raises(RequestError, match="not a valid case"):
        plain_name(text, "case")


@given(st.one_of(texts, st.sampled_from(EVIL)))
def test_a_name_stays_in_its_folder_whatever_it_is(text) -> None:
    folder = Path("/studies/labels")
    try:
        name = plain_name(text, "case")
    except RequestError as error:
        str(error).encode()  # it can be sent
        return
    path = path_in(folder, name, ".nii.gz")
    assert path.resolve().parent == folder
    path.name.encode()


def test_only_a_checked_name_becomes_a_path() -> None:
    with pytest.raises(TypeError):
        path_in("/studies", "case")
    assert path_in("/studies", plain_name("case", "case"), ".nii") == Path("/studies/case.nii")
    assert isinstance(plain_name("case", "case"), PlainName)


def test_a_members_value_is_its_name() -> None:
    assert plain_name(DefaultLabelTag.FINAL, "tag") == "final"


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "text",
    [
        '{"x": NaN}',
        '{"x": Infinity}',
        '{"x": -Infinity}',
        '"\\ud800"',
        "{",
        "[" * 2000,
        '{"a":' * 600 + "1" + "}" * 600,
        "nul",
        b"\xff\xfe",
        "[" + "1," * 600_000 + "1]",
        json.dumps(nested(MOST_DEPTH + 2)),
    ],
    ids=range(11),
)
def test_json_that_could_not_be_kept_is_refused(text) -> None:
    with pytest.raises(RequestError, match="body"):
        parse_json(text, "The body")


def test_a_very_long_number_is_refused_in_words() -> None:
    with pytest.raises(RequestError, match="out of range"):
        parse_json("9" * 5000, "The body")


@given(texts)
def test_any_text_parses_or_is_refused_in_words_that_can_be_sent(text) -> None:
    try:
        parse_json(text, "params")
    except RequestError as error:
        str(error).encode()


def test_nothing_is_an_empty_object() -> None:
    assert parse_object("", "params") == {}
    with pytest.raises(RequestError, match="JSON object"):
        parse_object("[]", "params")


@pytest.mark.parametrize(
    "notes",
    [
        {"x": float("nan")},
        {"x": "\ud800"},
        {"\ud800": 1},
        {"x": nested(250)},
        {"x": "a" * 70_000},
        {"x": float("inf")},
    ],
    ids=["nan", "half a character", "half a character as key", "deep", "large", "inf"],
)
def test_notes_that_could_not_be_read_again_are_refused(notes) -> None:
    with pytest.raises(RequestError, match="info"):
        check_notes(notes)


def test_what_a_message_repeats_is_short() -> None:
    assert len(shown("x" * 5000)) < 100
    shown("\ud800").encode()
