"""Archives that try to write elsewhere or to fill the disk."""

import io
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.errors import RequestError
from uncol.server.archives import MOST_MEMBERS, unpack

LIMIT = 2**20


def tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("/etc/evil", tarfile.REGTYPE, ""),
        ("../../evil", tarfile.REGTYPE, ""),
        ("a/../../evil", tarfile.REGTYPE, ""),
        ("scan.nii.gz", tarfile.SYMTYPE, "/etc/passwd"),
        ("scan.nii.gz", tarfile.LNKTYPE, "/etc/passwd"),
        ("device", tarfile.CHRTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
        (".hidden", tarfile.REGTYPE, ""),
        ("a\\b", tarfile.REGTYPE, ""),
    ],
)
def test_a_tar_with_one_bad_member_is_refused_whole(tmp_path, name, kind, link) -> None:
    good = ("good.nii", b"x", tarfile.REGTYPE, "")
    archive = tar(tmp_path / "x.tar.gz", [good, (name, b"", kind, link)])
    with pytest.raises(RequestError, match="refused"):
        unpack(archive, tmp_path / "out", limit_bytes=LIMIT)
    assert everything(tmp_path) == ["x.tar.gz"]


@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "a/../../evil", "a\\..\\b", ".hidden"])
def test_a_zip_with_one_bad_member_is_refused_whole(tmp_path, name) -> None:
    archive = zipped(tmp_path / "x.zip", [("good.nii", b"x"), (name, b"evil")])
    with pytest.raises(RequestError, match="refused"):
        unpack(archive, tmp_path / "out", limit_bytes=LIMIT)
    assert everything(tmp_path) == ["x.zip"]


def test_a_link_in_a_zip_is_refused(tmp_path) -> None:
    info = zipfile.ZipInfo("scan.nii")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(RequestError, match="refused"):
        unpack(tmp_path / "x.zip", tmp_path / "out", limit_bytes=LIMIT)


@pytest.mark.parametrize("make", ["zip", "tar", "many"])
def test_bombs_are_refused_before_anything_is_written(tmp_path, make) -> None:
    zeros = b"\0" * (LIMIT + 1)
    if make == "zip":
        archive = zipped(tmp_path / "x.zip", [("zeros", zeros)])
    elif make == "tar":
        archive = tar(tmp_path / "x.tar.gz", [("zeros", zeros, tarfile.REGTYPE, "")])
    else:
        names = [(f"{n}", b"", tarfile.REGTYPE, "") for n in range(MOST_MEMBERS + 1)]
        archive = tar(tmp_path / "x.tar.gz", names)
    assert archive.stat().st_size < LIMIT
    with pytest.raises(RequestError, match="more than"):
        unpack(archive, tmp_path / "out", limit_bytes=LIMIT)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 10240, b"x" * 100, b"PK\x03\x04" + b"x" * 60, b"\x1f\x8b"]
)
def test_what_is_no_archive_is_refused(tmp_path, content) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(RequestError, match="cannot be unpacked"):
        unpack(tmp_path / "x.zip", tmp_path / "out", limit_bytes=LIMIT)
    assert not (tmp_path / "out").exists()


names = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1)


@given(st.lists(st.tuples(names, st.binary(max_size=20)), min_size=1, max_size=3))
def test_whatever_the_names_are_nothing_is_written_outside(tmp_path_factory, members) -> None:
    folder = tmp_path_factory.mktemp("archive")
    archive = tar(folder / "x.tar", [(n, d, tarfile.REGTYPE, "") for n, d in members], "w")
    try:
        unpack(archive, folder / "out", limit_bytes=LIMIT)
    except RequestError:
        assert everything(folder) == ["x.tar"]
    else:
        assert all(one.startswith(("out", "x.tar")) for one in everything(folder))


def test_an_honest_archive_is_unpacked(tmp_path) -> None:
    members = [(".", b"", tarfile.DIRTYPE, ""), ("./a", b"", tarfile.DIRTYPE, "")]
    members.append(("./a/1.dcm", b"one", tarfile.REGTYPE, ""))
    unpack(tar(tmp_path / "x.tar.gz", members), tmp_path / "out", limit_bytes=LIMIT)
    assert (tmp_path / "out/a/1.dcm").read_bytes() == b"one"
    unpack(zipped(tmp_path / "x.zip", [("a/1.dcm", b"one")]), tmp_path / "z", limit_bytes=LIMIT)
    assert (tmp_path / "z/a/1.dcm").read_bytes() == b"one"
