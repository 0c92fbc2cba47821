"""`uncol benchmark uncertainty`: how true are map and estimate, beside MONAI Label's own?

Both judge the same published student on the same unseen cases; errors are those of the label that
the annotator gets. Each runs in its own process, so that peak memory is measured separately.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from uncol.calibration.calibrate import calibrate
from uncol.data.frame import make_frame
from uncol.data.scan import read_label, read_scan
from uncol.errors import RequestError
from uncol.experiments.monai_label.epistemic import EpistemicByMonaiLabel
from uncol.experiments.pool import LabeledPool
from uncol.packages import report_header
from uncol.round_settings import RoundSettings
from uncol.selection.survey import score_of
from uncol.training.reporter import Reporter
from uncol.training.round import train_round
from uncol.types import Array
from uncol.uncertainty import validity
from uncol.uncertainty.calibration import Calibration
from uncol.uncertainty.maps import near
from uncol.uncertainty.quality import risk_coverage
from uncol.uncertainty.validity import Counts
from uncol.versions.loaded import LoadedStudent, load_version
from uncol.versions.metrics import dice_per_label, mean_of
from uncol.versions.store import ModelStore

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Setup:
    """What is measured on.

    Attributes:
        pool: labeled scans.
        labeled: how many train with their label.
        unlabeled: how many train without.
        test: how many judge; the student never sees them.
        seed: draws the parts and seeds the training.
        model_dir: where the student is trained; one that was trained there on the same cases is
            reused.
    """

    pool: LabeledPool
    labeled: int
    unlabeled: int
    test: int
    seed: int
    model_dir: Path

    def parts(self) -> tuple[list[str], list[str], list[str]]:
        """Return the files of the three parts.

        Raises:
            RequestError: the pool is too small.
        """
        files = self.pool.shuffled(self.seed)
        first, second = self.labeled, self.labeled + self.unlabeled
        if len(files) < second + self.test:
            raise RequestError(
                f"{self.pool.images} holds {len(files)} labeled scans; {second + self.test} are "
                "needed. Ask for fewer test or unlabeled ones."
            )
        return files[:first], files[first:second], files[second : second + self.test]


@dataclass(frozen=True)
class Judged:
    """What one method said of one case.

    Attributes:
        counts: its voxels near the predicted foreground.
        estimate: of Dice; only its order counts where a method gives another scale.
        interval: of Dice, or None where a method gives none.
        dice: the true Dice, mean over labels.
        seconds: what it took.
    """

    counts: Counts
    estimate: float
    interval: tuple[float, float] | None
    dice: float
    seconds: float


@dataclass(frozen=True)
class Arm:
    """One method's results.

    Attributes:
        cases: one entry per case.
        peak_mib: peak memory in MiB, above what was in use after loading.
    """

    cases: list[Judged]
    peak_mib: float


def measure(setup: Setup, console: Console) -> dict[str, Any]:
    """Train if needed, measure both methods, print a table; returns the figures.

    Raises:
        RequestError: the pool is too small, or the folder holds a student of other parts.
    """
    labeled, unlabeled, test = setup.parts()
    settings = RoundSettings(
        labels=setup.pool.labels,
        preset="auto",
        generalist="litemedsam",
        generalist_weights=None,
        mode="intended",
        modality="auto",
        model_dir=setup.model_dir,
        device=CPU,
        seed=setup.seed,
    )
    seconds = _prepare(setup, settings, console)
    figures = {}
    arms: dict[str, Callable[..., Arm]] = {
        "uncol, uncalibrated": _uncalibrated,
        "uncol": _ours,
        "MONAI Label epistemic, 5 samples": _theirs,
    }
    for name, arm in arms.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own:
            figures[name] = _figures(own.submit(arm, setup.pool, test, setup.model_dir).result())
    report = {
        **report_header(
            seed=setup.seed,
            data=str(setup.pool.images),
            labeled=len(labeled),
            unlabeled=len(unlabeled),
            test=len(test),
        ),
        "preparation_seconds": seconds,
        "figures": figures,
    }
    console.print(_table(figures))
    return report


def _prepare(setup: Setup, settings: RoundSettings, console: Console) -> dict[str, float]:
    """Train and calibrate the student, unless that was done before."""
    labeled, unlabeled, _ = setup.parts()
    cases = setup.pool.cases(labeled, unlabeled)
    store = ModelStore(settings.model_dir)
    seconds: dict[str, float] = {}
    with console.status("training") as status:
        reporter = _Status(status.update)
        start = time.monotonic()
        if store.current() is None:
            train_round(cases, settings, reporter)
            seconds["train"] = round(time.monotonic() - start)
        number = store.current() or 0
        known = {name for part in store.manifest(number).cases.values() for name in part}
        if known != {case.name for case in cases}:
            raise RequestError(
                f"{settings.model_dir} holds a student that was trained on other cases. "
                "Choose another --model-dir."
            )
        start = time.monotonic()
        calibrate(cases, number, settings, reporter)
        seconds["calibrate"] = round(time.monotonic() - start)
    return seconds


class _Status(Reporter):
    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show

    def phase(self, text: str) -> None:
        self._show(text)


def _ours(pool: LabeledPool, test: Sequence[str], model_dir: Path) -> Arm:
    return _student(pool, test, load_version(*_current(model_dir), CPU))


def _uncalibrated(pool: LabeledPool, test: Sequence[str], model_dir: Path) -> Arm:
    published = load_version(*_current(model_dir), CPU)
    return _student(
        pool,
        test,
        replace(published, calibration=Calibration()),
    )


def _student(pool: LabeledPool, test: Sequence[str], published: LoadedStudent) -> Arm:
    published.segment(read_scan(pool.images / test[0]))  # the first call compiles kernels
    before, cases = _forget_peak(), []
    for file in test:
        start = time.monotonic()
        result = published.segment(read_scan(pool.images / file))
        score = score_of(file, published, result)
        seconds = time.monotonic() - start
        truth = read_label(pool.truth / file).array
        confidence = 1 - published.calibration.expected_error(result.uncertainty)
        cases.append(
            Judged(
                _count(result.label, truth, result.uncertainty, confidence),
                score.quality,
                score.interval,
                mean_of(dice_per_label(result.label, truth, pool.labels)),
                seconds,
            )
        )
    return Arm(cases, _memory_mib("VmHWM") - before)


def _theirs(pool: LabeledPool, test: Sequence[str], model_dir: Path) -> Arm:
    published = load_version(*_current(model_dir), CPU)
    labels = [published.segment(read_scan(pool.images / file)).label for file in test]
    method = EpistemicByMonaiLabel(published)
    before, cases = _forget_peak(), []
    for file, label in zip(test, labels, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(pool.images / file, folder)
            start = time.monotonic()
            scalar, entropy, mean = method.score(pool.images / file, Path(folder))
            seconds = time.monotonic() - start
        frame = make_frame(read_scan(pool.images / file).grid, published.manifest.space)
        restored = frame.to_scan(torch.from_numpy(np.concatenate([entropy[None], mean]))).numpy()
        unsure = np.clip(restored[0] / np.log(len(mean)), 0, 1)
        confidence = np.take_along_axis(restored[1:], label[None].astype(np.int64), axis=0)[0]
        truth = read_label(pool.truth / file).array
        cases.append(
            Judged(
                _count(label, truth, unsure, np.clip(confidence, 0, 1)),
                -scalar,
                None,
                mean_of(dice_per_label(label, truth, pool.labels)),
                seconds,
            )
        )
    return Arm(cases, _memory_mib("VmHWM") - before)


def _count(label: Array, truth: Array, uncertainty: Array, confidence: Array) -> Counts:
    """Count the voxels within 5 voxels of the predicted foreground."""
    around = near(torch.from_numpy(label > 0)).numpy()
    return validity.count(uncertainty[around], confidence[around], (label != truth)[around])


def _measures(arm: Arm, estimates: Array, dice: Array) -> dict[str, Callable[[Array], float]]:
    """Return what is measured on chosen cases; coverage only where there are intervals."""
    counts = [case.counts for case in arm.cases]
    measures: dict[str, Callable[[Array], float]] = {
        "auroc": lambda chosen: validity.auroc([counts[k] for k in chosen]),
        "ece": lambda chosen: validity.ece([counts[k] for k in chosen]),
        "spearman": lambda chosen: validity.spearman(estimates[chosen], dice[chosen]),
        "e_aurc": lambda chosen: validity.excess_risk(estimates[chosen], dice[chosen]),
    }
    intervals = np.array([case.interval for case in arm.cases if case.interval is not None])
    if len(intervals):
        measures["coverage"] = lambda chosen: validity.coverage(intervals[chosen], dice[chosen])
    return measures


def _figures(arm: Arm) -> dict[str, Any]:
    estimates = np.array([case.estimate for case in arm.cases])
    dice = np.array([case.dice for case in arm.cases])
    measured = {
        name: asdict(validity.bootstrap(measure, len(dice)))
        for name, measure in _measures(arm, estimates, dice).items()
    }
    seconds = np.array([case.seconds for case in arm.cases])
    return {
        "coverage": None,
        **measured,
        "bias": float((estimates - dice).mean()) if "coverage" in measured else None,
        "dice": float(dice.mean()),
        "dice_sd": float(dice.std()),
        "seconds": float(np.median(seconds)),
        "peak_mib": arm.peak_mib,
        "risk_coverage": risk_coverage(estimates, dice).tolist(),
    }


def _table(figures: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="Uncertainty and quality on unseen cases (95 % bootstrap interval)")
    table.add_column("")
    for name in figures:
        table.add_column(name, justify="right")
    rows = {
        "AUROC of the map for errors": "auroc",
        "ECE": "ece",
        "Spearman, estimated and true Dice": "spearman",
        "e-AURC (lower is better)": "e_aurc",
        "cases in their 90 % interval": "coverage",
    }
    for title, key in rows.items():
        table.add_row(title, *(_shown(figure[key]) for figure in figures.values()))
    for title, key, digits in (
        ("estimate too high by", "bias", 3),
        ("mean Dice", "dice", 3),
        ("its deviation over cases", "dice_sd", 3),
        ("seconds per case, median", "seconds", 2),
        ("peak memory, MiB", "peak_mib", 0),
    ):
        values = [figure[key] for figure in figures.values()]
        table.add_row(title, *("none" if v is None else f"{v:.{digits}f}" for v in values))
    return table


def _shown(measured: Mapping[str, float] | None) -> str:
    if measured is None:
        return "none"
    return f"{measured['value']:.3f} ({measured['low']:.3f} to {measured['high']:.3f})"


def _current(model_dir: Path) -> tuple[ModelStore, int]:
    store = ModelStore(model_dir)
    return store, store.current() or 0


def _forget_peak() -> float:
    """Make the kernel forget this process's peak memory; return what is in use now, MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_mib("VmRSS")


def _memory_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def write_report(report: Mapping[str, Any], out: Path) -> None:
    """Write the figures as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2))
