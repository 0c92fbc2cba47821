import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from uncol.data.grid import LPS_TO_RAS, Grid
from uncol.data.masks import extent
from uncol.inference.places import FEWEST_PLACES, MOST_PLACES, find_places

LABELS = {"a": 1, "b": 2}
GRID = Grid((40, 36, 24), np.diag([1.0, 1.0, 2.0, 1.0]))


def scan(*spots: tuple[tuple[int, int, int], float]) -> tuple[np.ndarray, np.ndarray]:
    """Return a box of label 1 with 2 above it, and errors of 3x3x3 voxels at the spots."""
    label = np.zeros(GRID.shape, dtype=np.uint8)
    label[8:32, 8:28, 4:20] = 1
    label[8:32, 8:28, 14:20] = 2
    error = np.zeros(GRID.shape, dtype=np.float32)
    for (i, j, k), height in spots:
        error[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2] = height
    return label, error


def test_the_worst_place_comes_first_and_names_its_label_and_slice() -> None:
    label, error = scan(((10, 12, 6), 0.3), ((28, 24, 17), 0.9))
    first, second = find_places(label, error, GRID, LABELS)
    assert (first.label, second.label) == ("b", "a")
    assert first.errors > second.errors
    assert 16 <= first.slice <= 18
    assert 5 <= second.slice <= 7


def test_a_box_counts_the_wrong_voxels_to_expect() -> None:
    label, error = scan(((20, 20, 10), 0.5))
    (place,) = find_places(label, error, GRID, LABELS)
    assert place.errors == np.float32(27 * 0.5)


def test_where_everything_is_sure_there_is_no_place() -> None:
    label, error = scan()
    assert find_places(label, error, GRID, LABELS) == []


@given(st.lists(st.tuples(*[st.integers(2, 21)] * 3, st.floats(0.06, 1.0)), min_size=1))
def test_places_are_few_ranked_and_never_overlap(spots) -> None:
    label, error = scan(*(((i, j, k), height) for i, j, k, height in spots))
    found = find_places(label, error, GRID, LABELS)
    assert 1 <= len(found) <= MOST_PLACES
    assert [p.errors for p in found] == sorted((p.errors for p in found), reverse=True)
    taken = np.zeros(GRID.shape, dtype=int)
    for place in found:
        taken[place.box] += 1
        assert place.box[2].start <= place.slice < place.box[2].stop
    assert taken.max() == 1
    left = float(np.where(taken == 0, error, 0).sum())
    assert len(found) >= FEWEST_PLACES or left < 0.5 + 27 * len(spots) * 0.5


@given(
    st.sampled_from(list(itertools.permutations(range(3)))),
    st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
)
def test_the_box_lies_in_lps_where_the_voxels_are(order, flips) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * np.array(flips) * [1.0, 1.0, 2.0]
    affine[:3, 3] = [5.0, -7.0, 11.0]
    label, error = scan(((20, 20, 10), 0.5))
    grid = Grid(GRID.shape, affine)
    (place,) = find_places(label, error, grid, LABELS)
    told = place.in_mm(grid).model_dump()
    centre = [(part.start + part.stop - 1) / 2 for part in place.box]
    ras = affine @ [*centre, 1.0]
    np.testing.assert_allclose(told["center_mm"], (LPS_TO_RAS @ ras)[:3])
    voxels = [part.stop - part.start for part in place.box]
    assert np.isclose(np.prod(told["size_mm"]), np.prod(voxels) * 2.0)


def test_a_single_slice_gets_flat_boxes() -> None:
    label = np.zeros((40, 40, 1), dtype=np.uint8)
    label[10:30, 10:30] = 1
    error = np.zeros((40, 40, 1), dtype=np.float32)
    error[12:15, 12:15] = 0.8
    (place,) = find_places(label, error, Grid((40, 40, 1), np.eye(4)), {"a": 1})
    assert place.slice == 0
    assert place.box[2] == slice(0, 1)


def test_the_extent_of_nothing_is_none_and_a_margin_stops_at_the_edge() -> None:
    mask = np.zeros((5, 6, 7), dtype=bool)
    assert extent(mask) is None
    mask[0, 3, 6] = True
    assert extent(mask, margin=2) == (slice(0, 3), slice(1, 6), slice(4, 7))
