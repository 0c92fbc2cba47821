"""Labels as DICOM Segmentations: written with highdicom, read from whoever wrote them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from uncol import __version__
from uncol.data.grid import Grid
from uncol.data.imagefile import MAX_VOXELS
from uncol.dicom.frames import on_grid
from uncol.dicom.odd import ODD
from uncol.dicom.series import Series
from uncol.errors import LabelError, why
from uncol.types import Array

MANUFACTURER = "UnCoL"
LABEL, STUDENT, UNCERTAINTY = "LABEL", "STUDENT", "UNCERTAINTY"  # ContentLabel: what a result is
SERIES_NUMBERS = {LABEL: 900, STUDENT: 901, UNCERTAINTY: 902}
ANATOMICAL_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
ARTIFICIAL_INTELLIGENCE = Code("123109", "DCM", "Artificial Intelligence")
MOST_PIXELS = 4 * MAX_VOXELS  # of all segments' frames together
SCHEME = "99UNCOL"  # coding scheme of structures for which no standard code is known


@dataclass(frozen=True)
class ResultOrigin:
    """Who or what made a result.

    Attributes:
        content: `LABEL` (an annotator's), `STUDENT` or `UNCERTAINTY`.
        description: what a viewer lists, at most 64 characters.
        version: the model version, or None.
        author: the annotator, or empty.
    """

    content: str
    description: str
    version: int | None = None
    author: str = ""


def write_segmentation(
    label: Array, segments: Mapping[str, int], series: Series, source: ResultOrigin
) -> Dataset:
    """Make a DICOM Segmentation from a label map, in the frames of its series.

    Args:
        label: `(I, J, K)` in the series' grid.
        segments: segment name to the value it has in `label`.
        series: what was segmented.
        source: who made it.

    Raises:
        LabelError: no voxel belongs to any segment, or the series' headers lack what a result takes
            over from them.
    """
    try:
        return _written(label, segments, series, source)
    except ODD as error:
        raise LabelError(
            f"No DICOM Segmentation can refer to this series: {why(error)}."
        ) from error


def _written(
    label: Array, segments: Mapping[str, int], series: Series, source: ResultOrigin
) -> Dataset:
    present = {name: value for name, value in segments.items() if (label == value).any()}
    if not present:
        raise LabelError("An empty label cannot be stored as a DICOM Segmentation.")
    frames = np.zeros((label.shape[2], label.shape[1], label.shape[0]), dtype=np.uint8)
    for number, value in enumerate(present.values(), start=1):
        frames[(label == value).transpose(2, 1, 0)] = number
    by_hand = source.content == LABEL
    algorithm = hd.AlgorithmIdentificationSequence(
        name="UnCoL student",
        version=str(source.version or __version__),
        family=ARTIFICIAL_INTELLIGENCE,
    )
    made = hd.seg.Segmentation(
        source_images=list(series.headers),
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=ANATOMICAL_STRUCTURE,
                segmented_property_type=structure_code(name),
                algorithm_type="SEMIAUTOMATIC" if by_hand else "AUTOMATIC",
                algorithm_identification=algorithm,
            )
            for number, name in enumerate(present, start=1)
        ],
        **identity(source),
    )
    return finished(made)


def read_segmentation(dataset: Dataset, grid: Grid) -> tuple[Array, dict[str, int]]:
    """Read a DICOM Segmentation, whoever wrote it, in a scan's grid.

    Args:
        dataset: the segmentation.
        grid: the scan's grid.

    Returns:
        `(I, J, K)` int32 with segment numbers, and the number of each segment name.

    Raises:
        LabelError: its pixels or positions cannot be read, or its segments overlap.
    """
    try:
        return _read(dataset, grid)
    except ODD as error:
        raise LabelError(f"It cannot be read: {why(error)}.") from error


def _frames(dataset: Dataset) -> Array:
    """Return the frames, `(F, rows, columns)`."""
    stated = int(dataset.get("NumberOfFrames") or 1) * int(dataset.Rows) * int(dataset.Columns)
    if stated > MOST_PIXELS:
        raise LabelError(f"It says it has {stated:,} pixels; at most {MOST_PIXELS:,} are read.")
    frames = np.asarray(dataset.pixel_array)
    if frames.ndim == 2:
        frames = frames[None]
    if dataset.get("SegmentationType") == "FRACTIONAL":
        frames = frames.astype(np.uint16) * 2 >= int(dataset.MaximumFractionalValue)
    return frames


def _read(dataset: Dataset, grid: Grid) -> tuple[Array, dict[str, int]]:
    frames = _frames(dataset)
    if dataset.get("SegmentationType") == "LABELMAP":
        return _read_label_map(dataset, frames, grid)
    names = {int(s.SegmentNumber): str(s.SegmentLabel) for s in dataset.SegmentSequence}
    numbers = [
        int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for frame in dataset.PerFrameFunctionalGroupsSequence
    ]
    label = np.zeros(grid.shape, dtype=np.int32)
    for number in sorted(set(numbers)):
        chosen = [place for place, own in enumerate(numbers) if own == number]
        mask = on_grid(dataset, (frames > 0).astype(np.uint8), chosen, grid) > 0
        if (label[mask] > 0).any():
            raise LabelError("Its segments overlap; let each voxel belong to one of them.")
        label[mask] = number
    return label, {name: number for number, name in names.items()}


def _read_label_map(dataset: Dataset, frames: Array, grid: Grid) -> tuple[Array, dict[str, int]]:
    """Read a Label Map Segmentation (PS3.3 A.51, C.8.20.2): pixels are segment numbers."""
    names = {int(s.SegmentNumber): str(s.SegmentLabel) for s in dataset.SegmentSequence}
    background = {0, int(dataset.get("PixelPaddingValue") or 0)}
    unnamed = set(np.unique(frames).tolist()) - names.keys() - background
    if unnamed:
        raise LabelError(f"Its pixels have the values {sorted(unnamed)[:5]}, which no segment has.")
    frames = np.where(np.isin(frames, list(background)), 0, frames).astype(np.uint16)
    label = on_grid(dataset, frames, range(len(frames)), grid).astype(np.int32)
    return label, {name: number for number, name in names.items() if number not in background}


def finished(made: Dataset) -> Dataset:
    """Return a result with its text in UTF-8 and its time in UTC, as OHIF writes it."""
    made.SpecificCharacterSet = "ISO_IR 192"
    now = datetime.datetime.now(datetime.UTC)
    made.ContentDate, made.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S.%f")
    return made


def latest(instances: Iterable[Dataset]) -> Dataset:
    """Return the instance with the highest InstanceNumber.

    Raises:
        LabelError: there is no instance, or one cannot be read.
    """
    try:
        return max(instances, key=lambda one: int(one.get("InstanceNumber") or 0))
    except ODD as error:
        raise LabelError(f"It has no instance that can be read: {why(error)}.") from error


def identity(source: ResultOrigin) -> dict[str, Any]:
    """Return what identifies a result of this app, as highdicom's arguments."""
    return {
        "series_instance_uid": hd.UID(),
        "series_number": SERIES_NUMBERS[source.content],
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": "UnCoL for MONAI Label",
        "software_versions": __version__,
        "device_serial_number": "0" if source.version is None else str(source.version),
        "content_label": source.content,
        "content_description": source.description,
        "content_creator_name": source.author or None,
        "series_description": source.description,
    }


def is_own_result(dataset: Dataset) -> bool:
    """Return whether a data set is a result of the student, not an annotator's label."""
    return bool(
        dataset.get("Manufacturer") == MANUFACTURER and dataset.get("ContentLabel") != LABEL
    )


def structure_code(name: str) -> Code:
    """Return the SNOMED CT code of a structure such as `left atrium`, else a private one."""
    key = re.sub(r"[\s_-]+", "", name.lower())
    try:
        standard: Code = getattr(codes.SCT, _structures().get(key, key))
    except (AttributeError, RuntimeError):  # unknown, or known in several meanings
        return Code(key.upper()[:16], SCHEME, name[:64])
    return standard


@cache
def _structures() -> dict[str, str]:
    """Return pydicom's SNOMED CT keywords by their lower-case form."""
    return {keyword.lower(): keyword for keyword in dir(codes.SCT)}
