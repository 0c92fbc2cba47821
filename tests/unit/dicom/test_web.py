import pytest

from uncol.dicom.web import Pacs


class Client:
    base_url = "http://pacs"

    def __init__(self, *uids):
        self.uids = uids

    def search_for_series(self, *, search_filters, fields, limit, offset):
        found = [
            {"0020000E": {"vr": "UI", "Value": [uid]}, "0020000D": {"vr": "UI", "Value": ["1.2"]}}
            for uid in self.uids
        ]
        return found[offset : offset + limit]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")
@pytest.mark.parametrize("uid", ["..", "../../etc", "/etc", ".hidden", "1/2", "1..2", "1" * 65, ""])
def test_a_uid_that_is_none_never_becomes_a_folder_s_name(uid):
    assert list(Pacs(Client("1.2.3", uid), [{"Modality": "CT"}]).scans()) == ["1.2.3"]


class Capped(Client):
    """Gives fewer than it is asked for, and some that are no DICOM."""

    def search_for_series(self, *, search_filters, fields, limit, offset):
        return super().search_for_series(
            search_filters=search_filters, fields=fields, limit=min(limit, 100), offset=offset
        )


def test_a_server_that_caps_its_pages_does_not_hide_the_rest():
    uids = [f"1.2.{n}" for n in range(250)]
    assert list(Pacs(Capped(*uids), [{"Modality": "SEG"}]).segmentations()) == uids


class Deaf(Client):
    """Ignores limit and offset."""

    def search_for_series(self, *, search_filters, fields, limit, offset):
        return super().search_for_series(
            search_filters=search_filters, fields=fields, limit=10**6, offset=0
        )


def test_a_server_that_ignores_offsets_is_not_asked_for_ever():
    assert list(Pacs(Deaf("1.1", "1.2"), [{"Modality": "CT"}]).scans()) == ["1.1", "1.2"]


def test_an_odd_search_result_does_not_hide_the_others():
    class Odd(Client):
        def search_for_series(self, **asked):
            found = super().search_for_series(**asked)
            return found and [{"0020000E": {"vr": "??", "Value": 3}}, *found]

    assert list(Pacs(Odd("1.1"), [{"Modality": "CT"}]).scans()) == ["1.1"]


def test_all_pages_are_read():
    uids = [f"1.2.{n}" for n in range(1234)]
    assert list(Pacs(Client(*uids), [{"Modality": "CT"}]).scans()) == uids
