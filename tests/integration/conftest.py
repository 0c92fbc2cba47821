"""A real server on a small real pool: brain MR from the MNI152 template."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock, patch

import pytest

from uncol.demo.pool import make_pool
from uncol.demo.server import running_server

CASES = 6
NIFTI_TEST_CONF = {"preset": "tiny3d"}


@dataclass(frozen=True)
class Live:
    """A running server with its pool."""

    url: str
    studies: Path
    truth: Path
    model_dir: Path
    labels: dict[str, int]


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Studies, truth and label names of a small pool; copy before changing it."""
    folder = tmp_path_factory.mktemp("pool")
    labels = make_pool(folder / "studies", folder / "truth", cases=CASES, seed=7)
    return folder / "studies", folder / "truth", labels


@pytest.fixture
def fresh_studies(pool: tuple[Path, Path, str], tmp_path: Path) -> Path:
    """A copy of the pool's studies that a test may change."""
    copy = tmp_path / "studies"
    shutil.copytree(pool[0], copy)
    return copy


@pytest.fixture(scope="module")
def live(pool: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that a module's tests share, on a copy of the pool."""
    folder = tmp_path_factory.mktemp("live")
    shutil.copytree(pool[0], folder / "studies")
    names = {name: value for value, name in enumerate(pool[2].split(","), start=1)}
    with running_server(
        folder / "studies", model_dir=folder / "model", labels=pool[2], conf=NIFTI_TEST_CONF
    ) as url:
        yield Live(url, folder / "studies", pool[1], folder / "model", names)


@pytest.fixture(scope="session")
def slicer_folder() -> Path:
    """Slicer's stock plug-in, from MONAI Label's wheel."""
    folder = Path(sysconfig.get_path("data")) / "monailabel" / "plugins" / "slicer" / "MONAILabel"
    if not folder.is_dir():
        pytest.fail(
            f"{folder} is missing: uv leaves MONAI Label's plug-ins out, finish the installation "
            "with pip install --no-deps --force-reinstall monailabel==0.8.5"
        )
    sys.path.insert(0, str(folder))
    return folder


@pytest.fixture(scope="session")
def slicer_client(slicer_folder: Path) -> Any:
    """The client class of Slicer's stock plug-in."""
    assert importlib.util.find_spec("MONAILabelLib")
    from MONAILabelLib.client import MONAILabelClient

    return MONAILabelClient


@pytest.fixture(scope="module")
def client(live: Live, slicer_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Slicer's client, connected to the module's server."""
    folder = tmp_path_factory.mktemp("slicer")
    return slicer_client(live.url, tmpdir=str(folder), client_id="user-slicer")


@pytest.fixture(scope="session")
def slicer_plugin(slicer_folder: Path) -> Iterator[Any]:
    """The plug-in's own module, imported with stand-ins for what only Slicer has."""
    bases = ModuleType("slicer.ScriptedLoadableModule")
    for name in ("", "Widget", "Logic", "Test"):
        full = f"ScriptedLoadableModule{name}"
        setattr(bases, full, type(full, (), {"__init__": lambda self, *_: None}))
    stands = {name: MagicMock(name=name) for name in ("ctk", "qt", "SampleData", "sitkUtils")}
    stands |= {name: MagicMock(name=name) for name in ("slicer", "slicer.i18n", "slicer.util")}
    stands |= {name: MagicMock(name=name) for name in ("vtk", "vtkSegmentationCore")}
    stands["ctk"].ctkSettingsPanel = stands["qt"].QDialog = type("Base", (), {})
    stands["slicer.util"].VTKObservationMixin = type("Mixin", (), {})
    stands["slicer"].util = stands["slicer.util"]
    stands["vtk"].vtkStringArray = StringArray
    stands["slicer.ScriptedLoadableModule"] = bases
    with patch.dict(sys.modules, stands):
        spec = importlib.util.spec_from_file_location("MONAILabel", slicer_folder / "MONAILabel.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


class StringArray(list[str]):
    """Stands in for vtkStringArray."""

    InsertNextValue = list.append
