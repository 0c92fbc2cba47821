"""Every command of the command line, through typer's runner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from uncol.cli import app as module
from uncol.cli.app import app, main
from uncol.errors import UncolError
from uncol.networks.weights import Download
from uncol.storage.model_folder import ModelFolder

RELEASED = Path(__file__).parents[2] / "released" / "v0.2.0" / "model_dir"
TINY = ["--preset", "tiny3d", "--teacher", "none"]


@pytest.fixture
def model_dir(tmp_path):
    shutil.copytree(RELEASED, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def pool(tmp_path):
    """Nine labeled scans of a box."""
    folder = tmp_path / "pool"
    for number in range(9):
        label = np.zeros((16, 16, 16), dtype=np.uint8)
        label[4 : 8 + number % 3, 5:11, 4:12] = 1
        noise = np.random.default_rng(number).normal(0, 0.5, label.shape)
        for kind, array in (("images", (2 * label + noise).astype(np.float32)), ("labels", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"c{number}.nii.gz")
    return folder


def run(*arguments: object) -> str:
    """Run a command that must succeed; return what it prints."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refused(*arguments: object) -> str:
    """Run a command that must end with a message for people."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code != 0
    return str(result.exception) if isinstance(result.exception, UncolError) else result.output


def commands() -> list[str]:
    found = [[command.name or command.callback.__name__] for command in app.registered_commands]
    for group in app.registered_groups:
        names = [c.name or c.callback.__name__ for c in group.typer_instance.registered_commands]
        found += [[group.name, name] for name in names]
    return [" ".join(words) for words in found]


def test_these_are_all_commands():
    assert set(commands()) == {
        "demo", "serve-pacs", "simulate", "weights fetch", "models list", "models show",
        "models rollback", "models gc", "models verify", "benchmark uncertainty",
        "benchmark rounds", "benchmark ssl", "benchmark average", "benchmark continued",
        "benchmark session",
    }  # fmt: skip


@pytest.mark.parametrize("command", commands())
def test_each_explains_itself(command):
    assert "Usage:" in run(*command.split(), "--help")


def test_without_a_command_it_lists_them():
    assert "benchmark" in CliRunner().invoke(app, []).output


def test_models_are_listed_shown_and_cleaned_up(model_dir):
    listed = run("models", "list", "--model-dir", model_dir)
    assert "served" in listed
    shown = json.loads(run("models", "show", 1, "--model-dir", model_dir))
    assert shown["teacher"] == "none"
    assert run("models", "gc", "--model-dir", model_dir) == "Deleted: none.\n"
    assert "no model version 7" in refused("models", "show", 7, "--model-dir", model_dir)


def test_a_damaged_version_is_listed_with_its_error(model_dir):
    ModelFolder(model_dir).manifest(1).write_text("{")
    assert "cannot be" in run("models", "list", "--model-dir", model_dir)


def test_models_roll_back(model_dir):
    versions = ModelFolder(model_dir).versions
    shutil.copytree(versions / "1", versions / "2")
    assert "Version 2 is served" in run("models", "rollback", 2, "--model-dir", model_dir)
    assert "Version 1 is served" in run("models", "rollback", "--model-dir", model_dir)
    assert "no version before 1" in refused("models", "rollback", "--model-dir", model_dir)


def test_a_version_whose_scans_are_gone_is_not_verified(model_dir, tmp_path):
    (tmp_path / "studies").mkdir()
    told = refused(
        *("models", "verify", 1, "--studies", tmp_path / "studies", "--model-dir", model_dir)
    )
    assert "cases that are gone" in told


def test_weights_are_fetched_by_name_alone(tmp_path, monkeypatch):
    assert "none of medsam" in refused("weights", "fetch", "litemedsam").replace("\n", " ")
    nowhere = Download("w.pth", "http://127.0.0.1:9/w.pth", None)
    monkeypatch.setattr(module, "download_of", lambda _: nowhere)
    assert "copy the file to" in refused("weights", "fetch", "medsam", "--model-dir", tmp_path)


def test_errors_for_people_end_without_a_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["uncol", "models", "rollback", "--model-dir", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "no version before" in capsys.readouterr().err


def test_ssl_compares_methods_and_names_those_it_does_not_know(pool, tmp_path):
    out = tmp_path / "o.jsonl"
    common = ["benchmark", "ssl", "--studies", pool, "--labels", "box", "--out", out, *TINY]
    asked = ["--budgets", 2, "--seeds", 0, "--train", 5, "--test", 2, "--steps", "1,1"]
    assert "bcp" in run(*common, *asked, "--methods", "supervised,bcp")
    assert len(out.read_text().splitlines()) == 2
    assert "uncol_no_visual" in refused(*common, *asked, "--methods", "cbp")
    assert "whole numbers" in refused(*common, "--seeds", "a").replace("\n", " ")


def test_annotation_is_replayed(pool, tmp_path):
    output = run(
        *("simulate", "--studies", pool, "--labels", "box", "--out", tmp_path / "s.jsonl"),
        *("--start", 2, "--stop", 2, "--seeds", 0, "--test", 2, "--cases", 4, "--step", 1),
        *("--strategies", "random", "--step-scale", 0.01, *TINY),
    )
    assert "random" in output
    (line,) = (tmp_path / "s.jsonl").read_text().splitlines()
    assert json.loads(line)["labelled"] == 2


@pytest.mark.parametrize(
    ("command", "target", "expected"),
    [
        (["benchmark", "rounds", "--out", "r.jsonl"], "rounds.play", "step"),
        (["benchmark", "uncertainty"], "uncertainty.measure", "labeled"),
    ],
)
def test_long_benchmarks_get_what_was_asked(pool, monkeypatch, command, target, expected):
    """What they do is tested elsewhere; here only that the options arrive."""
    setups = []
    monkeypatch.setattr(f"uncol.experiments.{target}", lambda setup, _: setups.append(setup))
    run(*command, "--studies", pool, "--labels", "box", f"--{expected}", 3)
    assert getattr(setups[0], expected) == 3
    assert setups[0].pool.labels == {"box": 1}


def test_the_demo_refuses_a_folder_without_labels(tmp_path):
    asked = ["demo", "--studies", tmp_path, "--labels", "a", "--once", "--out", tmp_path / "out"]
    assert "must hold the folders" in refused(*asked)


def test_the_pacs_tells_what_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("uncol.demo.orthanc.missing", lambda: "Orthanc: apt-get install orthanc")
    (tmp_path / "series").mkdir(parents=True)
    assert "apt-get install orthanc" in refused("serve-pacs", "--out", tmp_path)
