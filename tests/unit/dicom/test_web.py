import pytest

from uncol.dicom.web import Pacs


class Client:
    base_url = "http://pacs"

    def __init__(self, *uids):
        self.uids = uids

    def search_for_series(self, *, search_filters, limit, offset):
        found = [
            {"0020000E": {"vr": "UI", "Value": [uid]}, "0020000D": {"vr": "UI", "Value": ["1.2"]}}
            for uid in self.uids
        ]
        return found[offset : offset + limit]


@pytest.mark.parametrize("uid", ["..", "../../etc", "/etc", ".hidden", "1/2", "1..2", "1" * 65, ""])
def test_a_uid_that_is_none_never_becomes_a_folder_s_name(uid):
    assert list(Pacs(Client("1.2.3", uid), [{"Modality": "CT"}]).scans()) == ["1.2.3"]


def test_all_pages_are_read():
    uids = [f"1.2.{n}" for n in range(1234)]
    assert list(Pacs(Client(*uids), [{"Modality": "CT"}]).scans()) == uids
