"""Prepared cases for training: preprocessed once, kept on disk, read by memory map."""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uncol.data.annotation import annotated, read_annotation
from uncol.data.cases import Case
from uncol.data.frame import Frame, Space, as_tensor, make_frame
from uncol.data.imagefile import READ_AS
from uncol.data.preprocess import prepare
from uncol.data.scan import read_grid, read_scan
from uncol.storage.files import file_digest, replacing, unchanged
from uncol.types import Array

MAX_CENTERS = 2000  # foreground voxels kept per label, to centre crops on


@dataclass(frozen=True)
class TrainingCase:
    """A prepared case.

    Attributes:
        name: the datastore's image id.
        key: digest of the scan's bytes and its preprocessing.
        image: `(1, I, J, K)` float16, memory-mapped.
        label: `(1, I, J, K)` uint8 with 255 for voxels not annotated, memory-mapped, or None.
        centers: foreground voxels `(n, 3)` of each label that occurs.
        spacing_mm: working voxel size.
        low: the image's minimum, used for everything outside the scan.
        label_digest: digest of the label file that was read; empty without one.
    """

    name: str
    key: str
    image: Array
    label: Array | None
    centers: tuple[Tensor, ...]
    spacing_mm: tuple[float, float, float]
    low: float
    label_digest: str = ""

    def tensor(self) -> Tensor:
        """Return the whole image `(1, I, J, K)` in memory, float32."""
        return torch.from_numpy(np.array(self.image, dtype=np.float32))

    def annotation(self) -> Tensor:
        """Return the label `(I, J, K)` in memory as class indices, 0 where it is not annotated.

        Raises:
            ValueError: the case is not annotated.
        """
        if self.label is None:
            raise ValueError(f"case '{self.name}' is not annotated")
        return annotated(torch.from_numpy(np.array(self.label[0])))[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Working shape."""
        size_i, size_j, size_k = self.image.shape[1:]
        return (size_i, size_j, size_k)


class CaseStore:
    """Prepares cases and keeps them in a folder."""

    def __init__(
        self, folder: Path, space: Space, *, modality: str, labels: Mapping[str, int]
    ) -> None:
        """Open a store.

        Args:
            folder: where prepared scans are kept; made if missing.
            space: the model's space.
            modality: see `preprocess.prepare`.
            labels: the app's labels.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _allow_many_files()
        self.folder = folder
        self.space = space
        self.modality = modality
        self.labels = labels

    def load(self, case: Case) -> TrainingCase:
        """Prepare a case, or map what was prepared before.

        Raises:
            ScanError: the scan cannot be used.
            LabelError: the label cannot be used.
            StorageError: the prepared scan cannot be written, or a file changes all the time.
        """
        frame = make_frame(read_grid(case.image, case=case.name), self.space)
        key = self.key(case)
        path = self.folder / f"{key}.npy"
        if not path.exists():
            scan, digest = unchanged(case.image, lambda: read_scan(case.image, case=case.name))
            key = self._key(digest)
            path = self.folder / f"{key}.npy"
            prepared = prepare(scan, self.space, self.modality)
            _save(path, prepared.image.numpy().astype(np.float16))
        image = _mapped(path)
        label, label_digest = self._label(case, key, frame)
        centers = _centers(label, self.labels)
        spacing = frame.working.spacing_mm
        low = float(image.min())
        return TrainingCase(case.name, key, image, label, centers, spacing, low, label_digest)

    def key(self, case: Case) -> str:
        """Return the digest of a case's scan and of how it is prepared."""
        return self._key(file_digest(case.image))

    def _label(self, case: Case, key: str, frame: Frame) -> tuple[Array | None, str]:
        if case.label is None:
            return None, ""
        mapped, digest = unchanged(
            case.label, lambda: read_annotation(case, frame.scan, self.labels)
        )
        made_of = f"{key} {hashlib.sha256(mapped.tobytes()).hexdigest()}"
        path = self.folder / f"{hashlib.sha256(made_of.encode()).hexdigest()[:32]}.label.npy"
        if not path.exists():
            _save(path, frame.to_working(as_tensor(mapped), nearest=True).numpy())
        return _mapped(path), digest

    def _key(self, digest: str) -> str:
        made_of = f"{(self.space, self.modality, READ_AS)!r} {digest}"
        return hashlib.sha256(made_of.encode()).hexdigest()[:32]


def _mapped(path: Path) -> Array:
    os.utime(path)  # marks it as used now, so that trimming deletes others first
    array: Array = np.load(path, mmap_mode="r")
    return array


def _allow_many_files() -> None:
    """Raise this process's limit on open files: each mapped scan and label takes one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _save(path: Path, array: Array) -> None:
    with replacing(path) as partial, partial.open("wb") as stream:
        np.save(stream, array)


def _centers(label: Array | None, labels: Mapping[str, int]) -> tuple[Tensor, ...]:
    if label is None:
        return ()
    centers = []
    for value in labels.values():
        voxels = torch.from_numpy(np.argwhere(label[0] == value))
        if len(voxels):
            centers.append(voxels[:: max(1, len(voxels) // MAX_CENTERS)])
    return tuple(centers)
