import pytest

from uncol.errors import SettingsError
from uncol.settings import parse_settings


def test_nothing_given_works_with_a_warning_about_labels() -> None:
    settings, notes = parse_settings({})
    assert settings.labels == {"target": 1}
    assert any("labels" in note for note in notes)


@pytest.mark.parametrize("text", ["a, b", '{"a":1,"b":2}', '{"b":2,"a":1}'])
def test_labels_are_read_from_a_list_or_json_in_value_order(text) -> None:
    settings, notes = parse_settings({"labels": text})
    assert list(settings.labels.items()) == [("a", 1), ("b", 2)]
    assert notes == []


def test_all_mistakes_come_together_with_what_is_allowed() -> None:
    conf = {
        "labels": '{"a":1,"b":3}',
        "preset": "huge",
        "teacher_weights": "/nowhere.pth",
        "modalty": "ct",
    }
    with pytest.raises(SettingsError) as error:
        parse_settings(conf)
    text = str(error.value)
    assert "without gaps" in text
    assert "'huge' is not one of auto, tiny3d" in text
    assert "there is no file /nowhere.pth" in text
    assert "modalty: unknown setting; did you mean 'modality'?" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at least one name"),
        ("a,a", "twice"),
        ("a,background", "reserved"),
        ("review_high", "reserved"),
        ("{a:1}", "not JSON"),
        ('{"a":0}', "without gaps"),
        ('{"a":1,"b":"2"}', "without gaps"),
        ('{"a":null}', "without gaps"),
        ('{"a":true}', "without gaps"),
        ('{"a":1.0}', "whole numbers"),
    ],
)
def test_unusable_labels_are_refused(text, words) -> None:
    with pytest.raises(SettingsError, match=words):
        parse_settings({"labels": text})


def test_habits_of_other_apps_are_noted_not_refused() -> None:
    _, notes = parse_settings({"labels": "a", "models": "deepedit", "skip_scoring": "false"})
    assert len(notes) == 2
    assert all("does nothing" in note for note in notes)


def test_settings_cannot_be_changed() -> None:
    settings, _ = parse_settings({"labels": "a"})
    with pytest.raises(ValueError, match="frozen"):
        settings.mode = "release"
