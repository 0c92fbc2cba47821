"""Labels as annotators send them become the app's label values.

Slicer numbers voxel values in the order of the segments it exports, but the indices it sends along
also count skipped segments (docs/monai-label.md section 1.7). So values are mapped by position in
the list of segments and by name. The indices are used if positions do not explain the voxel values.
They come first if they do not ascend: Slicer's always do, and another client's are believed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from uncol.errors import LabelError
from uncol.types import Array

REVIEW_SEGMENTS = ("review_high", "review_medium")
IGNORED = (*REVIEW_SEGMENTS, "background", "background_scribbles", "foreground_scribbles")
IGNORE_VALUE = 255  # a voxel that nobody annotated; takes no part in any loss
REVIEWED = "reviewed"  # a segment whose marks say which slices and boxes were looked at
REVIEWED_VALUE = 254
MARKS = {REVIEWED: REVIEWED_VALUE, "not_annotated": IGNORE_VALUE}  # segments that are not anatomy
SOLID = 0.4  # share of its box that a dab fills; a scribble through a box fills far less


def segment_values(
    label_info: Sequence[Mapping[str, Any]], present: Sequence[int], case: str
) -> dict[str, int]:
    """Return the voxel value of each segment.

    Args:
        label_info: the client's list of `{"name", "idx"}`, in segment order.
        present: the voxel values above 0 that occur.
        case: the case's name for messages.

    Raises:
        LabelError: neither the indices nor the positions explain the voxel values, or two segments
            with the same name have voxels.
    """
    names, indices = names_and_indices(label_info, case)
    values = sorted(set(present) - {0, REVIEWED_VALUE, IGNORE_VALUE})
    places = list(range(1, len(names) + 1))
    ways = [places, indices] if indices == sorted(indices) else [indices, places]
    for numbers in ways:
        if set(values) <= set(numbers):
            return _by_name(names, numbers, values, case)
    raise LabelError(
        f"Label of case '{case}' has voxel values {values}, but names only the segments "
        f"{_listed(names)}. Submit the segmentation again so that each value has its segment."
    )


def names_and_indices(
    label_info: Sequence[Mapping[str, Any]], case: str
) -> tuple[list[str], list[int]]:
    """Return the segments' names and indices; a missing index becomes the place in the list.

    Raises:
        LabelError: it is not a list of `{"name", "idx"}`.
    """
    try:
        names = [str(segment.get("name", "")) for segment in label_info]
        return names, [int(s.get("idx", place)) for place, s in enumerate(label_info, start=1)]
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise LabelError(
            f"label_info of case '{case}' must be a list of segments, "
            f'{{"name": ..., "idx": <whole number>}} each: {error}.'
        ) from error


def _by_name(
    names: Sequence[str], numbers: Sequence[int], values: Sequence[int], case: str
) -> dict[str, int]:
    """Return each name's value; of two segments with one name, that of the one with voxels."""
    segments: dict[str, int] = {}
    for name, number in zip(names, numbers, strict=True):
        if name in segments and segments[name] in values and number in values:
            raise LabelError(
                f"Label of case '{case}' has two segments named '{name}'. Keep one of them (the "
                "viewer creates one per label by itself), and submit again."
            )
        if name not in segments or number in values:
            segments[name] = number
    return segments


def map_label(
    array: Array, segments: Mapping[str, int], labels: Mapping[str, int], *, case: str
) -> Array:
    """Bring a label map to the app's values by segment name.

    Review bands and scribbles become background; marks of the segment `reviewed` stay, see
    `annotated_part`.

    Args:
        array: `(I, J, K)` whole numbers.
        segments: segment name to voxel value; empty means that the values are the app's own.
        labels: the app's labels, name to value 1...N.
        case: the case's name for messages.

    Returns:
        `(I, J, K)` uint8 with 0, 1...N, 254 for marks of what was reviewed, and 255 for voxels
        that are not annotated.

    Raises:
        LabelError: a value or segment is unknown, or nothing is annotated.
    """
    table = _table(segments, labels, case)
    values = np.unique(array)
    table = {**table, REVIEWED_VALUE: REVIEWED_VALUE, IGNORE_VALUE: IGNORE_VALUE}
    unknown = [int(v) for v in values if int(v) not in table and v != 0]
    if unknown:
        raise LabelError(
            f"Label of case '{case}' has the values {unknown}, which no label of this app has. "
            f"Use only {_app_labels(labels)}."
        )
    result = np.zeros(array.shape, dtype=np.uint8)
    for value, target in table.items():
        result[array == value] = target
    if not ((result > 0) & (result != IGNORE_VALUE)).any():
        raise LabelError(
            f"Label of case '{case}' is empty: no voxel belongs to {_app_labels(labels)}. "
            "Draw the structure first, or leave the case unlabeled."
        )
    return result


def annotated_part(mapped: Array) -> Array:
    """If any places are marked as reviewed, turn all that lies outside them into not annotated.

    A mark one voxel thick stands for its whole slice, and so does each slice of a solid mark
    (dabs in neighbouring slices touch). Any other mark stands for the box around it. So a dab of
    paint marks a slice, and a scribble through a proposed box marks the box. The voxels under the
    paint itself count as not annotated.

    Args:
        mapped: `(I, J, K)` from `map_label`.

    Returns:
        `(I, J, K)` uint8 with 0, 1...N and 255.
    """
    marks = mapped == REVIEWED_VALUE
    if not marks.any():
        return mapped
    parts, _ = ndimage.label(marks, np.ones((3, 3, 3)))
    reviewed = np.zeros(marks.shape, dtype=bool)
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        sizes = [part.stop - part.start for part in box]
        solid = (parts[box] == number).mean() >= SOLID
        whole = [slice(None)] * 3
        thin = 2 - int(np.argmin(sizes[::-1]))  # if sides are equal, the file's slice axis
        whole[thin] = box[thin]
        reviewed[tuple(whole) if solid or min(sizes) == 1 else box] = True
    return np.where(reviewed & ~marks, mapped, IGNORE_VALUE).astype(np.uint8)


def _table(segments: Mapping[str, int], labels: Mapping[str, int], case: str) -> dict[int, int]:
    if not segments:
        return {value: value for value in labels.values()}
    folded = {_fold(name): value for name, value in labels.items()}
    table: dict[int, int] = {}
    unknown = []
    for name, value in segments.items():
        if _fold(name) in folded:
            table[value] = folded[_fold(name)]
        elif _fold(name) in IGNORED:
            table[value] = 0
        elif _fold(name) in MARKS:
            table[value] = MARKS[_fold(name)]
        else:
            unknown.append(name)
    if unknown:
        near = difflib.get_close_matches(_fold(unknown[0]), list(folded), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise LabelError(
            f"Label of case '{case}' has the segments {_listed(unknown)}, which this app does not "
            f"know. Rename them to one of {_app_labels(labels)}, or delete them.{hint}"
        )
    return table


def _fold(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _app_labels(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({value})" for name, value in labels.items())
