"""Imports run one way: a module may import only its own layer and those below it."""

import ast
from pathlib import Path

LIB = Path(__file__).parents[1] / "lib" / "uncol"
BASE = {"__init__", "__version__", "errors", "settings", "types"}
LAYERS = ["base", "data", "dicom", "networks", "uncertainty", "method", "inference", "training"]
LAYERS += ["selection", "tasks", "demo", "experiments", "cli"]


def rank(module: str) -> int:
    """Return the layer of `uncol.<name>...`; a name not in LAYERS fails, so it gets placed."""
    name = module.split(".")[1]
    name = "cli" if name == "__main__" else name
    return LAYERS.index("base" if name in BASE else name)


def imported(path: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    froms = [
        f"{n.module}.{a.name}" for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names
    ]
    return froms + [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]


def test_imports_only_reach_down() -> None:
    wrong = []
    for path in LIB.rglob("*.py"):
        module = "uncol." + ".".join(path.relative_to(LIB).with_suffix("").parts)
        for name in imported(path):
            if name.startswith("uncol.") and rank(name) > rank(module):
                wrong.append(f"{module} imports {name}")
            if name.startswith("monailabel") and rank(module) != LAYERS.index("tasks"):
                wrong.append(f"{module} imports {name}: only uncol.tasks may")
    assert wrong == []


def test_the_app_folder_defines_nothing() -> None:
    """MONAI Label runs main.py without registering it, so classes made there cannot be pickled."""
    main = LIB.parents[1] / "apps" / "uncol" / "main.py"
    kinds = {type(node) for node in ast.parse(main.read_text()).body}
    assert kinds <= {ast.Expr, ast.Import, ast.ImportFrom, ast.Assign}
