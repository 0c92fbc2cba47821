"""Labels as annotators send them become the app's label values.

Slicer numbers voxel values in the order of the segments it exports, but the indices it sends along
also count skipped segments (docs/monai-label.md section 1.7). Other clients send the voxel values
as indices. Which of the two is meant is told by the list: Slicer's indices ascend, never begin with
0, and never belong to a background. Where both would do and say different things, the label is
refused.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from uncol.data.names import fold
from uncol.errors import LabelError, why
from uncol.types import Array

REVIEW_SEGMENTS = ("review_high", "review_medium")
# Slicer never sends these along; what is under review bands and scribbles is not known
SKIPPED_BY_SLICER = ("background", "background_scribbles", "foreground_scribbles")
IGNORED = (*REVIEW_SEGMENTS, *SKIPPED_BY_SLICER)
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
    named = {number for name, number in zip(names, indices, strict=True) if fold(name) not in MARKS}
    values = sorted(set(present) - {0} - ({REVIEWED_VALUE, IGNORE_VALUE} - named))
    ways = _readings(names, indices)
    fitting = [numbers for numbers in ways if set(values) <= set(numbers)]
    if not fitting:
        raise LabelError(
            f"Label of case '{case}' has voxel values {values}, but names only the segments "
            f"{_listed(names)}. Submit the segmentation again so that each value has its segment."
        )
    if len(fitting) > 1 and ways[0] != indices:
        _refuse_unclear(names, ways[0], indices, values, case)
    return _by_name(names, fitting[0], values, case)


def _readings(names: Sequence[str], indices: list[int]) -> list[list[int]]:
    """Return what a list of segments may mean: the likelier reading comes first."""
    places = list(range(1, len(names) + 1))
    if 0 in indices or any(fold(name) in SKIPPED_BY_SLICER for name in names):
        return [indices]
    ascending = all(one < other for one, other in itertools.pairwise(indices))
    return [places, indices] if ascending else [indices, places]


def _refuse_unclear(
    names: Sequence[str],
    places: Sequence[int],
    indices: Sequence[int],
    values: Sequence[int],
    case: str,
) -> None:
    """Refuse a label whose values mean one segment by position and another one by index.

    Raises:
        LabelError: they do.
    """
    by_place = dict(zip(places, names, strict=True))
    by_index = dict(zip(indices, names, strict=True))
    for value in values:
        if by_place[value] != by_index[value]:
            raise LabelError(
                f"Label of case '{case}' is unclear: its value {value} is the segment "
                f"'{by_place[value]}' by position and '{by_index[value]}' by index. Remove the "
                "segments that stand before them in the list, or send the indices 1, 2, ... in "
                "the order of the segments."
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
        return names, [_whole(s.get("idx", n)) for n, s in enumerate(label_info, start=1)]
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise LabelError(
            f"label_info of case '{case}' must be a list of segments, "
            f'{{"name": ..., "idx": <whole number>}} each: {why(error)}.'
        ) from error


def _whole(value: object) -> int:
    """Return an index as a number.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is no whole number")
    if float(value) != int(float(value)):
        raise ValueError(f"{value!r} is no whole number")
    return int(float(value))


def _by_name(
    names: Sequence[str], numbers: Sequence[int], values: Sequence[int], case: str
) -> dict[str, int]:
    """Return each name's value; of two segments with one name, that of the one with voxels."""
    segments: dict[str, int] = {}
    owners: dict[int, str] = {}
    for name, number in zip(names, numbers, strict=True):
        owner = owners.setdefault(number, name) if number in values else name
        _check_number(name, number, owner, case)
        if name in segments and segments[name] in values and number in values:
            raise LabelError(
                f"Label of case '{case}' has two segments named '{name}'. Keep one of them (the "
                "viewer creates one per label by itself), and submit again."
            )
        if name not in segments or number in values:
            segments[name] = number
    return segments


def _check_number(name: str, number: int, owner: str, case: str) -> None:
    """Refuse a number that cannot be a segment's.

    Raises:
        LabelError: another segment has it, or it is the background's.
    """
    if fold(owner) != fold(name):
        raise LabelError(
            f"Label of case '{case}' gives the value {number} to '{owner}' and to '{name}'. Give "
            "each segment an index of its own."
        )
    if number == 0 and fold(name) != "background":
        raise LabelError(
            f"Label of case '{case}' gives the index 0 to '{name}'; 0 is the background. Number "
            "the segments from 1."
        )


def map_label(
    array: Array,
    segments: Mapping[str, int],
    labels: Mapping[str, int],
    *,
    case: str,
    empty_ok: bool = False,
) -> Array:
    """Bring a label map to the app's values by segment name.

    Review bands and scribbles hide what is under them: that is not annotated. Marks of the segment
    `reviewed` stay, see `annotated_part`.

    Args:
        array: `(I, J, K)` whole numbers.
        segments: segment name to voxel value; empty means that the values are the app's own.
        labels: the app's labels, name to value 1...N.
        case: the case's name for messages.
        empty_ok: whether it may hold no structure at all.

    Returns:
        `(I, J, K)` uint8 with 0, 1...N, 254 for marks of what was reviewed, and 255 for voxels
        that are not annotated.

    Raises:
        LabelError: a value or segment is unknown, or nothing is annotated.
    """
    values = np.unique(array)
    # a segment may have one of these values; without one, they are marks
    marks = {REVIEWED_VALUE: REVIEWED_VALUE, IGNORE_VALUE: IGNORE_VALUE}
    table = {**marks, **_table(segments, labels, case)}
    unknown = [int(v) for v in values if int(v) not in table and v != 0]
    if unknown:
        raise LabelError(
            f"Label of case '{case}' has the values {unknown}, which no label of this app has. "
            f"Use only {_app_labels(labels)}."
        )
    result = np.zeros(array.shape, dtype=np.uint8)
    for value, target in table.items():
        result[array == value] = target
    if not (empty_ok or ((result > 0) & (result != IGNORE_VALUE)).any()):
        hint = ""
        if IGNORE_VALUE in values:
            hint = (
                f" The value {IGNORE_VALUE} means 'not annotated' unless label_info gives it a "
                "segment's name: send that, or save the mask with the label's own value."
            )
        raise LabelError(
            f"Label of case '{case}' is empty: no voxel belongs to {_app_labels(labels)}. "
            f"Draw the structure first, or leave the case unlabeled.{hint}"
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
    targets = {**dict.fromkeys(IGNORED, IGNORE_VALUE), "background": 0, **MARKS}
    targets |= {fold(name): value for name, value in labels.items()}
    unknown = [name for name in segments if fold(name) not in targets]
    if unknown:
        near = difflib.get_close_matches(fold(unknown[0]), [fold(name) for name in labels], n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise LabelError(
            f"Label of case '{case}' has the segments {_listed(unknown)}, which this app does not "
            f"know. Rename them to one of {_app_labels(labels)}, or delete them.{hint}"
        )
    return {value: targets[fold(name)] for name, value in segments.items()}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _app_labels(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({value})" for name, value in labels.items())
