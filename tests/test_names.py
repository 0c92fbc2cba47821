"""One name per thing: no two classes, and no two constants, share a name."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

LIB = Path(__file__).parents[1] / "lib" / "uncol"
VAGUE = {"found", "told", "kept", "look"}  # of a local that holds something with a name


def trees() -> dict[str, ast.Module]:
    return {
        str(path.relative_to(LIB)): ast.parse(path.read_text())
        for path in sorted(LIB.rglob("*.py"))
    }


def defined_in(kind: str) -> dict[str, list[str]]:
    """Return the modules that define each public class, or each constant, at their top level."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, tree in trees().items():
        for node in tree.body:
            for name in classes(node) if kind == "class" else constants(node):
                places[name].append(module)
    return places


def classes(node: ast.stmt) -> list[str]:
    return [node.name] if isinstance(node, ast.ClassDef) and node.name[0] != "_" else []


def constants(node: ast.stmt) -> list[str]:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return [name for name in names if name.isupper() and not name.startswith("_")]


@pytest.mark.parametrize("kind", ["class", "constant"])
def test_a_name_has_one_meaning(kind: str) -> None:
    twice = {name: where for name, where in defined_in(kind).items() if len(where) > 1}
    assert twice == {}


def test_locals_say_what_they_hold() -> None:
    vague = [
        f"{module}:{node.lineno} {node.id}"
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE
    ]
    assert vague == []
