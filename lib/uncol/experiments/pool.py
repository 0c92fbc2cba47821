"""A labeled pool on disk, drawn into parts by a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from uncol.data.cases import Case, Pool
from uncol.data.imagefile import file_extension
from uncol.errors import RequestError, why


@dataclass(frozen=True)
class LabeledPool:
    """Scans with true labels.

    Attributes:
        images: folder of scans.
        truth: folder of labels, same file names.
        labels: name to value.
        files: file names that both folders hold, sorted.
        lists: training and test files in the order of `train.list` and `test.list`, if the folder
            holds them; else empty.
        patient: regular expression whose match in a file name identifies the patient; empty if
            every file is a patient of its own.
    """

    images: Path
    truth: Path
    labels: dict[str, int]
    files: tuple[str, ...]
    lists: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    patient: str = ""

    def case(self, file: str, *, annotated: bool) -> Case:
        """Return a case, with its label or as if it had none."""
        name = file[: len(file) - len(file_extension(file))]
        return Case(name, self.images / file, self.truth / file if annotated else None)

    def cases(self, labeled: Iterable[str], unlabeled: Iterable[str]) -> list[Case]:
        """Return the cases of a training."""
        return [self.case(file, annotated=True) for file in labeled] + [
            self.case(file, annotated=False) for file in unlabeled
        ]

    def pool(self, labeled: Iterable[str], unlabeled: Iterable[str]) -> Pool:
        """Return the pool of a training in which no case is held out."""
        return Pool(tuple(self.cases(labeled, [])), tuple(self.cases([], unlabeled)), ())

    def shuffled(self, seed: int) -> list[str]:
        """Return all files in an order that only the seed decides, each patient's files together.

        Raises:
            RequestError: `patient` matches nothing in a file name.
        """
        patients: dict[str, list[str]] = {}
        for file in self.files:
            patients.setdefault(self._patient_of(file), []).append(file)
        groups = list(patients.values())
        random.Random(seed).shuffle(groups)
        return [file for group in groups for file in group]

    def parts(self, seed: int, *, test: int) -> tuple[list[str], list[str]]:
        """Return training files and `test` test files.

        A published split is kept, whatever the seed; of its test files, at most `test` are taken.
        Without one the seed draws both parts. No patient is in both: there are a few more test
        files where a patient would be split.
        """
        train, held = self.lists
        if train and held:
            return list(train), list(held[:test])
        files = self.shuffled(seed)
        while 0 < test < len(files) and self._same_patient(files[test - 1], files[test]):
            test += 1
        return files[test:], files[:test]

    def _same_patient(self, first: str, second: str) -> bool:
        return self._patient_of(first) == self._patient_of(second)

    def _patient_of(self, file: str) -> str:
        if not self.patient:
            return file
        match = re.search(self.patient, file)
        if match is None:
            raise RequestError(f"--patient '{self.patient}' matches nothing in '{file}'.")
        return match.group()


def open_pool(studies: Path, labels: str, *, patient: str = "") -> LabeledPool:
    """Open a folder with `images/` and `labels/`.

    Args:
        studies: the folder.
        labels: names of the label values 1, 2, ..., "a,b".
        patient: see `LabeledPool`.

    Raises:
        RequestError: a folder is missing, no file is in both, labels have no names, or `patient` is
            not a regular expression.
    """
    images, truth = studies / "images", studies / "labels"
    if not images.is_dir() or not truth.is_dir():
        raise RequestError(f"{studies} must hold the folders images/ and labels/.")
    files = sorted(path.name for path in images.iterdir() if (truth / path.name).is_file())
    if not files:
        raise RequestError(f"No file of {images} has a label of the same name in {truth}.")
    values = _values(labels)
    _check_expression(patient)
    return LabeledPool(images, truth, values, tuple(files), _lists(studies, files), patient)


def _values(labels: str) -> dict[str, int]:
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if not names:
        raise RequestError('Name the labels of values 1, 2, ...: --labels "a,b".')
    return {name: value for value, name in enumerate(names, start=1)}


def _check_expression(patient: str) -> None:
    try:
        re.compile(patient)
    except re.error as error:
        raise RequestError(
            f"--patient '{patient}' is not a regular expression: {why(error)}."
        ) from error


def _lists(studies: Path, files: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the split that a data set was published with: names of cases, one per line."""
    by_case = {file[: len(file) - len(file_extension(file))]: file for file in files}

    def read(name: str) -> tuple[str, ...]:
        path = studies / name
        lines = path.read_text().split() if path.is_file() else []
        return tuple(by_case[line] for line in lines if line in by_case)

    return read("train.list"), read("test.list")
