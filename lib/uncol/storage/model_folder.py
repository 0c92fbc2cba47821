"""Where everything lies in a model folder: the one place that names its files.

<model_dir>/
  uncol/                              the versions of this app's student, and what belongs to them
    current                           the number of the served version
    events.jsonl                      what was published, refused, rolled back, deleted
    split.json                        which annotated cases train, which judge
    queue.json                        the order of the pool
    train_stats.json                  the running or last round, in the keys that viewers read
    idle_stats.json                   the same of the rounds that nobody asked for
    project.json                      which studies the folder is for
    owner.json                        which server writes now, or wrote last
    embeddings/<generalist>.jsonl     where each case lies in the generalist's space
    versions/<n>/                     manifest.json, student.safetensors
    scores/<n>/                       what was found out about version n after it was published:
                                      calibration.json, doubts.json, evidence.jsonl, cases.jsonl,
                                      maps/, pre-labels/, and the voxels of judged cases
    runs/                             checkpoint.pt, request.json, logs for TensorBoard
    runs/idle/                        checkpoint.pt of the training that nobody asked for
  cache/embeddings/  cache/prepared/  what can be computed again
  weights/                            downloaded weights of generalists
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

VERSIONS_KEPT = 5  # newest versions that a clean-up leaves, besides the served one


@dataclass(frozen=True)
class VersionNotes:
    """The files of what was found out about a version after it was published.

    Attributes:
        folder: holds them; created by the first writer.
    """

    folder: Path

    @property
    def calibration(self) -> Path:
        """How far its probabilities can be believed."""
        return self.folder / "calibration.json"

    @property
    def doubts(self) -> Path:
        """The submitted labels that specialist and generalist contradict."""
        return self.folder / "doubts.json"

    @property
    def evidence(self) -> Path:
        """What annotated cases show, one line per case."""
        return self.folder / "evidence.jsonl"

    @property
    def scores(self) -> Path:
        """What the version says about each case, one line per case."""
        return self.folder / "cases.jsonl"

    @property
    def maps(self) -> Path:
        """Folder of uncertainty maps, until the server collects them."""
        return self.folder / "maps"

    @property
    def pre_labels(self) -> Path:
        """Folder of the version's label maps, until the server collects them."""
        return self.folder / "pre-labels"

    def voxels(self, case: str) -> Path:
        """Return the file of a judged case's voxels."""
        return self.folder / f"{case}.npz"


@dataclass(frozen=True)
class ModelFolder:
    """The layout of a model folder; nothing in it need exist.

    Attributes:
        root: the setting `model_dir`.
    """

    root: Path

    @property
    def student(self) -> Path:
        """The folder of the student's versions and of all that belongs to them."""
        return self.root / "uncol"

    @property
    def current(self) -> Path:
        """The number of the served version."""
        return self.student / "current"

    @property
    def events(self) -> Path:
        """What happened to versions, one line per event."""
        return self.student / "events.jsonl"

    @property
    def lock(self) -> Path:
        """Held while versions change."""
        return self.student / ".lock"

    @property
    def owner_lock(self) -> Path:
        """Held by the server as long as it runs."""
        return self.student / ".owner.lock"

    @property
    def owner(self) -> Path:
        """Which server holds the folder."""
        return self.student / "owner.json"

    @property
    def project(self) -> Path:
        """Which studies the folder is for."""
        return self.student / "project.json"

    @property
    def versions(self) -> Path:
        """The folder of version folders."""
        return self.student / "versions"

    def manifest(self, version: int) -> Path:
        """Return the file that records how a version was made."""
        return self.versions / str(version) / "manifest.json"

    def weights(self, version: int) -> Path:
        """Return the file of a version's weights."""
        return self.versions / str(version) / "student.safetensors"

    def notes(self, version: int) -> VersionNotes:
        """Return the files of what was found out about a version after it was published."""
        return VersionNotes(self.student / "scores" / str(version))

    def embeddings(self, generalist: str) -> Path:
        """Return the file of the pool's embeddings under a generalist."""
        return self.student / "embeddings" / f"{generalist}.jsonl"

    @property
    def split(self) -> Path:
        """Which annotated cases train, which judge."""
        return self.student / "split.json"

    @property
    def queue(self) -> Path:
        """The order of the pool."""
        return self.student / "queue.json"

    @property
    def train_stats(self) -> Path:
        """The state of the running or last round."""
        return self.student / "train_stats.json"

    @property
    def idle_runs(self) -> Path:
        """The folder of the run under way that nobody asked for."""
        return self.runs / "idle"

    @property
    def idle_stats(self) -> Path:
        """The state of the running or last round that nobody asked for."""
        return self.student / "idle_stats.json"

    @property
    def runs(self) -> Path:
        """The folder of the run under way."""
        return self.student / "runs"

    @property
    def training_request(self) -> Path:
        """The training request that is not finished yet."""
        return self.runs / "request.json"

    @property
    def encoded_cache(self) -> Path:
        """The folder of the generalist's embeddings of scans."""
        return self.root / "cache" / "embeddings"

    @property
    def prepared_cache(self) -> Path:
        """The folder of prepared scans and labels."""
        return self.root / "cache" / "prepared"

    @property
    def downloads(self) -> Path:
        """The folder of downloaded weights."""
        return self.root / "weights"


def checkpoint_in(runs: Path) -> Path:
    """Return the file of a run's checkpoint in a folder of runs."""
    return runs / "checkpoint.pt"
