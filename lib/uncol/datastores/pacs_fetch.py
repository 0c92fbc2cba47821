"""Fetch a series from a PACS, whole and as it was asked for, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from uncol.data.scan import write_volume
from uncol.dicom.odd import ODD
from uncol.dicom.series import read_series
from uncol.dicom.web import Pacs
from uncol.errors import PacsError, ScanError, why
from uncol.types import Array


def fetch(pacs: Pacs, study_uid: str, uid: str, target: Path, headers: Path) -> int:
    """Fetch a series as a volume and its headers; return how many images it has.

    Args:
        pacs: where it is.
        study_uid: its StudyInstanceUID.
        uid: its SeriesInstanceUID.
        target: the volume's file; its folder exists.
        headers: folder of the headers, one file per slice.

    Raises:
        ScanError: the series is not a volume.
        PacsError: the PACS does not give it, gives other images than it lists, or fewer.
        OSError, StorageError: it could not be written.
    """
    with scratch(target.parent) as work:
        received = work / "received"
        received.mkdir()
        count = _receive(pacs, study_uid, uid, received)
        volume, series = read_series(received, case=uid)
        write_volume(work / target.name, _compact(volume.array), volume.grid)
        stripped = work / "headers"
        stripped.mkdir()
        for number, header in enumerate(series.headers):
            header.save_as(stripped / f"{number:05d}.dcm")
        headers.parent.mkdir(exist_ok=True)
        # left by a fetch that was killed between the two renames
        shutil.rmtree(headers, ignore_errors=True)
        stripped.rename(headers)
        (work / target.name).rename(target)
    return count


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside the scans, so that files can be renamed into place."""
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=folder) as name:
        yield Path(name)


def _receive(pacs: Pacs, study_uid: str, uid: str, folder: Path) -> int:
    """Write all images of a series to a folder and return how many there are."""
    listed = pacs.count(study_uid, uid)
    seen: set[str] = set()
    odd: list[str] = []
    for one in pacs.images(study_uid, uid):
        theirs = str(one.get("StudyInstanceUID")), str(one.get("SeriesInstanceUID"))
        if theirs != (study_uid, uid):
            raise PacsError(f"The PACS was asked for series {uid} and gave images of {theirs[1]}.")
        try:
            one.save_as(folder / f"{len(seen):05d}.dcm", write_like_original=False)
            seen.add(str(one.get("SOPInstanceUID")))
        except ODD as error:
            odd.append(why(error))
    if listed is not None and len(seen) + len(odd) < listed:  # an odd one may be a cut one
        raise PacsError(
            f"The PACS lists {listed} images of series {uid} and gave {len(seen)} whole ones. It "
            "may still arrive; try again in a moment."
        )
    if odd:
        raise ScanError(f"An image of series '{uid}' cannot be kept: {odd[0]}.")
    return len(seen)


def _compact(array: Array) -> Array:
    """Return the array as int16, half the size, if that changes no value."""
    with np.errstate(invalid="ignore"):  # what does not fit is seen below
        small = array.astype(np.int16)
    return small if np.array_equal(small, array) else array
