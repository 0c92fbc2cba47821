import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.data.labels import (
    IGNORE_VALUE,
    REVIEWED_VALUE,
    annotated_part,
    map_label,
    segment_values,
)
from uncol.errors import LabelError

LABELS = {"liver": 1, "spleen": 2, "left kidney": 3}


def a_label(*values):
    return np.array(values, dtype=np.int32).reshape(-1, 1, 1)


def test_without_names_the_values_are_the_app_s_own():
    assert map_label(a_label(0, 1, 3), {}, LABELS, case="p").flatten().tolist() == [0, 1, 3]


@given(
    st.permutations(list(LABELS)),
    st.lists(st.integers(1, 200), min_size=3, max_size=3, unique=True),
)
def test_voxels_follow_the_segment_s_name_whatever_its_value(names, values):
    segments = dict(zip(names, values, strict=True))
    mapped = map_label(a_label(0, *values), segments, LABELS, case="p").flatten().tolist()
    assert mapped == [0, *(LABELS[name] for name in names)]


@pytest.mark.parametrize("name", ["Left Kidney", "left_kidney", "  LEFT kidney "])
def test_case_and_spaces_in_names_do_not_matter(name):
    assert map_label(a_label(9), {name: 9}, LABELS, case="p").flatten().tolist() == [3]


@pytest.mark.parametrize(
    "name", ["review_high", "review_medium", "background", "foreground_scribbles"]
)
def test_what_review_bands_and_scribbles_hide_is_not_annotated(name):
    mapped = map_label(a_label(1, 2), {"liver": 1, name: 2}, LABELS, case="p")
    assert mapped.flatten().tolist() == [1, 0 if name == "background" else IGNORE_VALUE]


def test_swapped_values_are_swapped_once():
    swapped = map_label(a_label(1, 2), {"spleen": 1, "liver": 2}, LABELS, case="p")
    assert swapped.flatten().tolist() == [2, 1]


def test_voxels_nobody_annotated_keep_their_mark():
    mapped = map_label(a_label(0, 1, IGNORE_VALUE), {}, LABELS, case="p")
    assert mapped.flatten().tolist() == [0, 1, IGNORE_VALUE]
    assert mapped.dtype == np.uint8


def test_an_unknown_segment_is_named_with_the_nearest_label():
    with pytest.raises(LabelError, match=r"'p7' has the segments 'splen'.*Did you mean 'spleen'"):
        map_label(a_label(1), {"splen": 1}, LABELS, case="p7")


def test_an_unknown_value_is_named_with_the_allowed_ones():
    with pytest.raises(
        LabelError, match=r"'p7' has the values \[4, 17\].*liver \(1\), spleen \(2\)"
    ):
        map_label(a_label(1, 4, 17), {}, LABELS, case="p7")


def test_a_value_without_a_segment_is_unknown():
    with pytest.raises(LabelError, match=r"values \[2\]"):
        map_label(a_label(1, 2), {"liver": 1}, LABELS, case="p7")


@pytest.mark.parametrize(
    ("values", "segments"),
    [((0, 0), {}), ((0, IGNORE_VALUE), {}), ((0, 5), {"background": 5})],
)
def test_a_label_without_any_structure_is_empty(values, segments):
    with pytest.raises(LabelError, match=r"'p7' is empty.*leave the case unlabeled"):
        map_label(a_label(*values), segments, LABELS, case="p7")


def test_values_are_counted_in_the_order_of_the_segments():
    info = [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 3}]  # one was skipped
    assert segment_values(info, [1, 2], "p") == {"liver": 1, "spleen": 2}


def test_the_sent_index_counts_where_it_is_what_the_voxels_hold():
    info = [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 3}]
    assert segment_values(info, [1, 3], "p") == {"liver": 1, "spleen": 3}


@given(st.permutations(["a", "b", "c", "d"]))
def test_position_wins_for_any_order_of_names(names):
    info = [{"name": name, "idx": 9 - place} for place, name in enumerate(names)]
    assert segment_values(info, [0, 1, 2, 3, 4], "p") == {n: i for i, n in enumerate(names, 1)}


def listed(*pairs):
    return [{"name": name, "idx": value} for name, value in pairs]


@pytest.mark.parametrize(
    ("pairs", "present", "values"),
    [
        ([("background", 0), ("a", 1), ("b", 2)], [0, 1, 2], {"a": 1, "b": 2}),
        ([("background", 0), ("a", 1), ("b", 2)], [0, 1], {"a": 1, "b": 2}),
        ([("Background", 1), ("a", 2), ("b", 3)], [2, 3], {"a": 2, "b": 3}),
        ([("a", 2), ("b", 3)], [2, 3], {"a": 2, "b": 3}),
        ([("a", 2), ("b", 3)], [1, 2], {"a": 1, "b": 2}),  # Slicer, after a skipped segment
        ([("a", 17), ("b", 53)], [17, 53], {"a": 17, "b": 53}),
        ([("a", 128), ("b", 255)], [128, 255], {"a": 128, "b": 255}),
        ([("a", 254), ("b", 255)], [254, 255], {"a": 254, "b": 255}),
        ([("a", 255)], [0, 255], {"a": 255}),
        ([("b", 2), ("a", 1)], [1, 2], {"a": 1, "b": 2}),
        ([("a", 1), ("reviewed", 254), ("not_annotated", 255)], [1, 254, 255], {"a": 1}),
    ],
)
def test_what_a_list_of_segments_means_is_told_by_the_list(pairs, present, values):
    segments = segment_values(listed(*pairs), present, "p")
    assert {name: value for name, value in segments.items() if name in values} == values


def test_a_value_that_may_be_two_segments_is_refused():
    with pytest.raises(LabelError, match=r"unclear: its value 2 is .* 'b' by position and 'a'"):
        segment_values(listed(("a", 2), ("b", 3)), [2], "p")


@pytest.mark.parametrize(("x", "y"), [(254, 255), (255, 254), (128, 255)])
def test_a_segment_may_have_the_value_of_a_mark(x, y):
    segments = segment_values(listed(("liver", x), ("spleen", y)), [x, y], "p")
    mapped = map_label(a_label(0, x, y), segments, LABELS, case="p").flatten().tolist()
    assert mapped == [0, 1, 2]


def test_a_mask_of_0_and_255_without_names_says_what_255_means():
    with pytest.raises(LabelError, match=r"255 means 'not annotated'"):
        map_label(a_label(0, 255), {}, LABELS, case="p")


@given(
    st.permutations(["liver", "spleen", "left kidney"]),
    st.lists(st.integers(0, 300), min_size=3, max_size=3),
    st.lists(st.integers(0, 300), max_size=4),
    st.booleans(),
)
def test_random_lists_map_by_name_or_are_refused(names, indices, present, background):
    """Whatever is accepted agrees with one of the two readings for every voxel."""
    pairs = [*([("background", 0)] if background else []), *zip(names, indices, strict=True)]
    try:
        segments = segment_values(listed(*pairs), present, "p")
    except LabelError:
        return
    by_index = {value: name for name, value in pairs if value}
    by_place = {place: name for place, (name, _) in enumerate(pairs, start=1)}
    used = {value: name for name, value in segments.items() if value in present and value}
    readings = [{v: one.get(v) for v in used} for one in (by_index, by_place)]
    assert used in readings
    if background:
        assert used == readings[0]


def test_values_that_nothing_explains_are_refused():
    with pytest.raises(LabelError, match=r"'p7' has voxel values \[1, 8\].*'liver'"):
        segment_values([{"name": "liver", "idx": 1}], [0, 1, 8], "p7")


def test_values_without_any_segment_are_refused():
    with pytest.raises(LabelError, match="none"):
        segment_values([], [1], "p7")


def paint(*spots: tuple[slice | int, ...]) -> np.ndarray:
    """Return label 1 everywhere in an 8x9x10 grid, with marks of what was reviewed."""
    array = np.ones((8, 9, 10), dtype=np.uint8)
    for spot in spots:
        array[spot] = REVIEWED_VALUE
    return array


def test_the_segment_reviewed_is_kept_as_marks() -> None:
    found = map_label(a_label(1, 3), {"liver": 1, "Reviewed": 3}, LABELS, case="p7")
    assert set(np.unique(found)) == {1, REVIEWED_VALUE}


def test_reviewed_background_is_an_annotation_too() -> None:
    found = map_label(a_label(0, 3), {"liver": 1, "reviewed": 3}, LABELS, case="p7")
    assert set(np.unique(found)) == {0, REVIEWED_VALUE}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_dab_of_paint_in_a_slice_marks_the_slice(axis) -> None:
    spot = [slice(2, 4)] * 3
    spot[axis] = 5
    found = np.moveaxis(annotated_part(paint(tuple(spot))), axis, 0)
    assert (found[[0, 1, 2, 3, 4, 6, 7]] == IGNORE_VALUE).all()
    assert (found[5] == IGNORE_VALUE).sum() == 4  # what the paint covers is unknown
    assert set(np.unique(found[5])) == {1, IGNORE_VALUE}


def test_a_scribble_through_a_box_marks_the_box() -> None:
    scribble = tuple((i, i, i) for i in range(2, 6))
    found = annotated_part(paint(*scribble))
    inside = found[2:6, 2:6, 2:6]
    assert (inside == 1).sum() == 64 - 4
    assert (found == 1).sum() == 64 - 4


def test_a_single_dot_marks_the_slice_of_the_file_s_slice_axis() -> None:
    found = annotated_part(paint((3, 4, 7)))
    assert (found[..., 7] == 1).sum() == 8 * 9 - 1
    assert (found == 1).sum() == 8 * 9 - 1


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 8), st.integers(0, 9)), max_size=5))
def test_marks_only_ever_take_annotation_away(spots) -> None:
    given_label = paint(*spots)
    found = annotated_part(given_label)
    known = found != IGNORE_VALUE
    assert (found[known] == given_label[known]).all()
    assert known.all() if not spots else known.any()


def test_dabs_in_neighbouring_slices_mark_both_slices() -> None:
    found = annotated_part(paint((slice(2, 5), slice(2, 5), slice(6, 8))))
    assert (found[..., 6:8] == 1).sum() == 2 * (8 * 9 - 9)
    assert (np.delete(found, [6, 7], axis=2) == IGNORE_VALUE).all()


def test_values_that_mean_not_annotated_need_no_segment() -> None:
    info = [{"name": "liver", "idx": 1}]
    assert segment_values(info, [0, 1, REVIEWED_VALUE, IGNORE_VALUE], "p") == {"liver": 1}


def test_indices_that_do_not_ascend_are_meant_as_they_are():
    info = [{"name": "liver", "idx": 2}, {"name": "spleen", "idx": 1}]  # no Slicer sends this
    assert segment_values(info, [1, 2], "p") == {"liver": 2, "spleen": 1}


def test_of_two_segments_of_one_name_the_painted_one_counts():
    info = [{"name": name, "idx": i} for i, name in enumerate(("liver", "spleen", "liver"), 1)]
    assert segment_values(info, [1, 2], "p") == {"liver": 1, "spleen": 2}
    assert segment_values(info, [2, 3], "p") == {"liver": 3, "spleen": 2}


def test_two_painted_segments_of_one_name_are_told():
    info = [{"name": name, "idx": i} for i, name in enumerate(("liver", "spleen", "liver"), 1)]
    with pytest.raises(LabelError, match="'p7' has two segments named 'liver'"):
        segment_values(info, [1, 3], "p7")


@pytest.mark.parametrize(
    "told",
    [
        [{"name": "a", "idx": "one"}],
        [{"name": "a", "idx": None}],
        [{"name": "a", "idx": float("inf")}],
        [{"name": "a", "idx": float("nan")}],
        ["a"],
        "a",
        7,
    ],
)
def test_a_list_of_segments_that_is_none_is_refused(told):
    with pytest.raises(LabelError, match="label_info of case 'it' must be a list of segments"):
        segment_values(told, [1], "it")
