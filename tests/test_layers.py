"""Imports run one way: a module may import only its own layer and those below it."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from uncol.method import losses

LIB = Path(__file__).parents[1] / "lib" / "uncol"
BASE = {
    "__init__",
    "__version__",
    "errors",
    "types",
    "round_settings",
    "packages",
    "shapes",
    "wanted",
}
LAYERS = (
    {"base", "storage"},
    {"data"},
    {"dicom", "networks", "uncertainty"},
    {"method", "inference"},
    {"generalist", "versions", "datastores"},
    {"training"},
    {"calibration"},
    {"selection"},
    {"settings"},
    {"tasks"},
    {"server"},
    {"demo"},
    {"experiments"},
    {"cli", "__main__"},
)
MAY_IMPORT_MONAI_LABEL = ("datastores", "tasks", "server", "experiments.monai_label")


def rank(module: str) -> int:
    """Return the layer of `uncol.<name>...`; a name in none fails, so it gets placed."""
    name = module.split(".")[1]
    name = "base" if name in BASE else name
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


def imported(path: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    froms = [
        f"{n.module}.{a.name}" for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names
    ]
    return froms + [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]


def modules() -> dict[str, list[str]]:
    """Return what each module imports, by dotted name."""
    return {
        ".".join(("uncol", *path.relative_to(LIB).with_suffix("").parts)): imported(path)
        for path in LIB.rglob("*.py")
    }


def test_imports_only_reach_down() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in modules().items()
        for name in names
        if name.startswith("uncol.") and rank(name) > rank(module)
    ]
    assert wrong == []


def test_only_some_packages_import_monai_label() -> None:
    allowed = tuple(f"uncol.{name}." for name in MAY_IMPORT_MONAI_LABEL)
    wrong = [
        f"{module} imports {name}"
        for module, names in modules().items()
        for name in names
        if name.split(".")[0] == "monailabel" and not module.startswith(allowed)
    ]
    assert wrong == []


def test_no_two_modules_import_each_other() -> None:
    """Modules form no circle, packages of one layer neither."""
    known = set(modules())
    graph: dict[str, set[str]] = {}
    for module, names in modules().items():
        reached = {
            n if n in known else n.rpartition(".")[0] for n in names if n.startswith("uncol")
        }
        graph[module] = reached - {module}
    sorter = graphlib.TopologicalSorter(graph)
    sorter.prepare()  # raises CycleError, which names the circle
    packages: dict[str, set[str]] = {}
    for module, reached in graph.items():
        own = module.split(".")[1]
        packages.setdefault(own, set()).update(
            name.split(".")[1] for name in reached if "." in name
        )
    for own, reached in packages.items():
        reached.discard(own)
    graphlib.TopologicalSorter(packages).prepare()


def test_the_app_folder_defines_nothing() -> None:
    """MONAI Label runs main.py without registering it, so classes made there cannot be pickled."""
    main = LIB.parents[1] / "apps" / "uncol" / "main.py"
    kinds = {type(node) for node in ast.parse(main.read_text()).body}
    assert kinds <= {ast.Expr, ast.Import, ast.ImportFrom, ast.Assign}


def loaded_by(statement: str, names: tuple[str, ...]) -> list[str]:
    """Return which of some packages a fresh interpreter loads by a statement."""
    below = tuple(f"{name}." for name in names)
    code = (
        f"import sys; {statement}; "
        f"print(*[m for m in sys.modules if m in {names} or m.startswith({below})])"
    )
    made = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(LIB.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.split()


def test_serving_loads_neither_training_nor_calibration_nor_the_generalist() -> None:
    never = ("uncol.training", "uncol.calibration", "uncol.generalist")
    assert loaded_by("import uncol.tasks.infer", never) == []


HELP = "import uncol.cli.app as c; c.app({}, standalone_mode=False)"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["models", "list", "--help"],
        ["benchmark", "ssl", "--help"],
        ["simulate", "--help"],
    ],
    ids=" ".join,
)
def test_help_loads_neither_torch_nor_monai(arguments: list[str]) -> None:
    silent = "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()): "
    statement = f"exec({silent + HELP.format([*arguments, '--help'])!r})"
    assert loaded_by(statement, ("torch", "monai", "monailabel", "SimpleITK", "nibabel")) == []


def test_shell_completion_loads_neither_torch_nor_monai() -> None:
    asked = {"_UNCOL_COMPLETE": "complete_bash", "COMP_WORDS": "uncol mod", "COMP_CWORD": "1"}
    code = (
        "import sys, atexit, uncol.cli.app as c\n"
        "atexit.register(lambda: print('LOADED', *{'torch', 'monai'} & sys.modules.keys()))\n"
        "c.app(prog_name='uncol')"
    )
    made = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked, "PYTHONPATH": str(LIB.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "models" in made.stdout
    assert made.stdout.splitlines()[-1].split() == ["LOADED"]


def test_shapes_are_checked_at_every_call() -> None:
    """The hook of tests/conftest.py is in place: a wrong shape is an error in tests."""
    scores = torch.zeros(1, 2, 4, 4, 4)
    with pytest.raises(TypeCheckError, match="label"):
        losses.dice_ce(scores, torch.zeros(1, 4, 4, dtype=torch.long), scores[:, 0] > 0)
