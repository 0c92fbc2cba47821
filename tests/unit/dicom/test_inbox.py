"""A stand-in answers for the PACS: a real one cannot be made to give damaged answers."""

import time

import pytest
from pydicom.dataset import Dataset

from uncol.dicom.inbox import TRIES, Inbox
from uncol.dicom.web import Entry
from uncol.errors import PacsError

SCANS = {"1.1", "1.2"}


def header(image, made_at="20260101", maker="a viewer"):
    made = Dataset()
    made.ContentDate, made.ContentTime = made_at, "120000"
    made.Manufacturer, made.ContentLabel = maker, "STUDENT"
    if image:
        reference = Dataset()
        reference.SeriesInstanceUID = image
        made.ReferencedSeriesSequence = [reference]
    return made


class Headers:
    """Gives headers by UID; an exception is raised instead."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    def headers(self, entry):
        self.asked.append(entry.uid)
        answer = self.answers[entry.uid]
        if isinstance(answer, Exception):
            raise answer
        return [answer] if answer is not None else []


def listed(*uids):
    return {uid: Entry(uid, "1", {}) for uid in uids}


@pytest.fixture
def open_inbox(tmp_path):
    def make(answers):
        headers = Headers(answers)
        return Inbox(headers, tmp_path / "known.jsonl"), headers

    return make


def ask(inbox, found, seen=(), until=None, scans=SCANS):
    until = time.monotonic() + 60 if until is None else until
    return [(entry.uid, image) for entry, image in inbox.news(found, seen, scans, until=until)]


def test_news_come_oldest_first_and_headers_are_asked_once_also_after_a_restart(open_inbox):
    answers = {"5": header("1.1", "20260102"), "6": header("1.1", "20260101")}
    inbox, headers = open_inbox(answers)
    assert ask(inbox, listed("5", "6")) == [("6", "1.1"), ("5", "1.1")]
    assert ask(inbox, listed("5", "6"), seen={"6"}) == [("5", "1.1")]
    again, unasked = open_inbox(answers)
    assert ask(again, listed("5", "6")) == [("6", "1.1"), ("5", "1.1")]
    assert headers.asked == ["5", "6"]
    assert unasked.asked == []


@pytest.mark.parametrize(
    "odd",
    [
        PacsError("HTTP 500"),
        None,
        header(""),
        header("9.9"),
        Dataset(),
        "no reference uid",
        {"ReferencedSeriesSequence": "text"},
    ],
)
def test_an_odd_one_never_holds_up_the_others(open_inbox, odd):
    if odd == "no reference uid":
        odd = header("")
        odd.ReferencedSeriesSequence = [Dataset()]
    inbox, headers = open_inbox({"5": odd, "6": header("1.2")})
    for _ in range(TRIES + 3):
        assert ask(inbox, listed("5", "6")) == [("6", "1.2")]
    assert headers.asked.count("5") <= TRIES


def test_results_of_the_student_are_no_labels(open_inbox):
    inbox, _ = open_inbox({"5": header("1.1", maker="UnCoL")})
    assert ask(inbox, listed("5")) == []


def test_a_segmentation_waits_for_its_scan(open_inbox):
    inbox, _ = open_inbox({"5": header("9.9")})
    assert ask(inbox, listed("5")) == []
    assert ask(inbox, listed("5"), scans={"9.9"}) == [("5", "9.9")]


def test_none_is_given_while_headers_are_missing(open_inbox):
    """Else the one that was looked at first would be taken up last, and replace a later one."""
    inbox, headers = open_inbox({"5": header("1.1"), "6": header("1.1")})
    assert ask(inbox, listed("5", "6"), until=0.0) == []
    assert headers.asked == []
    assert len(ask(inbox, listed("5", "6"))) == 2


def test_one_that_cannot_be_fetched_is_given_up_after_some_tries(open_inbox):
    inbox, _ = open_inbox({"5": header("1.1")})
    (entry,) = listed("5").values()
    error = PacsError("HTTP 500")
    assert [inbox.failed(entry, error) for _ in range(TRIES)] == [False] * (TRIES - 1) + [True]
    assert ask(inbox, listed("5")) == []
