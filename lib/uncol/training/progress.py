"""Report a round's progress: log lines, the statistics that viewers read, TensorBoard."""

from __future__ import annotations

import datetime
import json
import logging
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from uncol.storage.files import write_json
from uncol.training.reporter import Reporter, Step
from uncol.training.round import Outcome
from uncol.versions.manifest import Plan

logger = logging.getLogger(__name__)

PROGRESS_EVERY_S = 2.0


class ProgressFile(Reporter):
    """Writes `train_stats.json` with the keys that Slicer and OHIF read, and log lines.

    Slicer draws epoch / total_epochs and best_metric (which must be a number), and takes
    total_time as the sign of the end (docs/monai-label.md section 1.7).
    """

    def __init__(self, path: Path, runs: Path) -> None:
        """Start afresh.

        Args:
            path: the statistics file.
            runs: folder of TensorBoard runs.
        """
        self.path = path
        self.started = time.time()
        self.plan: Plan | None = None
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        self.board = SummaryWriter(str(runs / stamp))
        self._told = 0.0
        self._first: tuple[int, float] | None = None
        self._stats: dict[str, Any] = {
            "start_ts": int(self.started),
            "epoch": 0,
            "total_epochs": 1,
            "best_metric": 0.0,
            "phase": "starting",
        }
        self._write()

    def phase(self, text: str) -> None:
        """Show a phase."""
        self._stats["phase"] = text
        self._tell(text)

    def planned(self, plan: Plan) -> None:
        """Show the budget."""
        self.plan = plan
        self._first = None  # one round may follow another
        self._stats["total_epochs"] = plan.steps
        self._tell(f"{plan.pretrain_steps} steps of stage 1, {plan.finetune_steps} of stage 2")

    def step(self, step: Step) -> None:
        """Show a step: to TensorBoard always, to log and file every two seconds."""
        values = {**step.losses, **step.trust}
        for name, value in values.items():
            self.board.add_scalar(f"stage{step.stage}/{name}", value, step.number)
        self._stats.update(
            epoch=step.number, stage=step.stage, losses=step.losses, trust=step.trust
        )
        self._stats["phase"] = f"stage {step.stage}"
        if time.time() - self._told < PROGRESS_EVERY_S:
            return
        left_s = self._left_s(step)
        self._stats["eta_s"] = round(left_s)
        listed = " ".join(f"{name}={value:.3f}" for name, value in values.items())
        total = self._stats["total_epochs"]
        self._tell(f"step {step.number}/{total} stage {step.stage} {listed} ETA {left_s:.0f} s")

    def done(self, outcome: Outcome) -> None:
        """Show the end of a round.

        Args:
            outcome: what it gave.
        """
        self._stats.update(
            model_version=outcome.served,
            gate={"version": outcome.version, **outcome.verdict.model_dump()},
            left_out=outcome.left_out,
            start=outcome.start,
        )
        did = "published" if outcome.verdict.published else "did not publish"
        self.finish(f"{did} version {outcome.version}")

    def finish(self, text: str, *, error: str | None = None) -> None:
        """Write the last state; without it viewers would wait forever."""
        if error is not None:
            self._stats["error"] = error
        self._stats["phase"] = text
        self._stats["total_time"] = str(datetime.timedelta(seconds=int(time.time() - self.started)))
        self._stats.pop("current_time", None)
        self._tell(text)
        self.board.close()

    def _left_s(self, step: Step) -> float:
        now = time.time()
        if self._first is None:
            self._first = (step.number, now)
        done, total = step.number - self._first[0], int(self._stats["total_epochs"])
        return (now - self._first[1]) / done * (total - step.number) if done else 0.0

    def _tell(self, text: str) -> None:
        self._told = time.time()
        logger.info("%s", text)
        self._write()

    def _write(self) -> None:
        if "total_time" not in self._stats:
            spent = datetime.timedelta(seconds=int(time.time() - self.started))
            self._stats["current_time"] = str(spent)
        write_json(self.path, self._stats)


def read_stats(path: Path) -> dict[str, Any]:
    """Return the last written statistics; empty before the first round."""
    try:
        stats: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return stats
