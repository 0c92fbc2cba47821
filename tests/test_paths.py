"""No client's text becomes a path: `path_in` makes paths, from names that `plain_name` checked.

A path that is joined anywhere else, in the packages that see clients' text, is listed here with the
reason why it is none of theirs.
"""

import ast
from pathlib import Path

import pytest

from uncol.errors import RequestError
from uncol.storage.plain import PlainName, path_in, plain_name

LIB = Path(__file__).parents[1] / "lib" / "uncol"
PACKAGES = ("server", "tasks", "datastores")
FOUND_ON_DISK = "listed by the server in its own folder"
ROWS = "a file's place in the record, which a listing of the folder wrote"
OURS = {
    "server/caretaker.py: notes.pre_labels / path.name": FOUND_ON_DISK,
    "server/door.py: folder / f'{name}{extension_of(upload)}'": "one of a few known extensions",
    "datastores/catalog.py: self._root / row.file": ROWS,
    "datastores/changes.py: self._root / row.file": ROWS,
    "datastores/changes.py: self._root / label.file": ROWS,
    "datastores/changes.py: self._root / file": FOUND_ON_DISK,
    "datastores/folder.py: self._root / row.file": ROWS,
    "datastores/record.py: root / self.file": ROWS,
    "datastores/studies.py: self._root / row.file": ROWS,
    "datastores/listing.py: folder / LABELS / tag": FOUND_ON_DISK,
    "datastores/listing.py: folder / file": FOUND_ON_DISK,
    "datastores/listing.py: folder / relative": FOUND_ON_DISK,
    "datastores/history.py: folder / name": FOUND_ON_DISK,
    "datastores/history.py: path_in(self._folder, case) / f'{now}-{name}'": "time and digest",
    "datastores/listing.py: folder / name": FOUND_ON_DISK,
    "datastores/listing.py: place / name": FOUND_ON_DISK,
    "datastores/connect.py: root / f'uncol-{md5_digest(url)}'": "a digest of a setting",
    "datastores/pacs_fetch.py: work / target.name": "made by path_in",
    "datastores/pacs_fetch.py: stripped / f'{number:05d}.dcm'": "a number",
    "datastores/pacs_fetch.py: folder / f'{len(seen):05d}.dcm'": "a number",
}


def is_fixed(node: ast.expr) -> bool:
    """Say whether a part of a path is the same whatever a client sends."""
    if isinstance(node, ast.JoinedStr):
        return all(is_fixed(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return is_fixed(node.value)
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id.isupper())


def joins() -> dict[str, ast.expr]:
    """Return each join of a path whose last part is not fixed, by file and text."""
    found = {}
    for package in PACKAGES:
        for path in (LIB / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                divided = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
                called = isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    *("os.path.join", "Path.joinpath"),
                )
                if called or (divided and not is_fixed(node.right)):
                    found[f"{path.relative_to(LIB)}: {ast.unparse(node)}"] = node
    return found


def numbers(text: str) -> bool:
    """Say whether a division is one of numbers, to be read off its text."""
    return any(word in text for word in ("time", "2**", "bytes", "total", "count"))


def test_paths_are_made_in_one_place() -> None:
    others = {text for text in joins() if not numbers(text.split(": ")[1])}
    assert others == set(OURS)


def test_routes_open_no_file_by_themselves() -> None:
    for path in (LIB / "server" / "routes").glob("*.py"):
        names = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert "open" not in {ast.unparse(node.func) for node in names}, path


@pytest.mark.parametrize("text", ["../x", "/etc/passwd", "a/b", "a\\b", "", ".", "..", ".x", "\0"])
def test_only_a_checked_name_becomes_a_path(text: str) -> None:
    with pytest.raises(RequestError):
        plain_name(text, "image id")
    with pytest.raises(TypeError):
        path_in(LIB, text)
    assert path_in(LIB, plain_name("x", "image id"), ".py") == LIB / "x.py"
    assert isinstance(plain_name("x", "image id"), PlainName)
