import numpy as np
import pytest
import torch

from uncol.errors import RequestError
from uncol.generalist.encode import WHOLE_SCAN
from uncol.generalist.first_mask import MAX_VIEWS, first_mask, make_prompt
from uncol.generalist.models.protocol import Encoded, Prompted

ISOTROPIC = (1.0, 1.0, 1.0)


class Seer:
    """A 2D model that finds the bright pixels of a slice within its box, and writes down views."""

    dims, side, takes_boxes, token_channels = 2, 32, True, 1

    def __init__(self, scan):
        self.scan = scan
        self.encoded = []  # (axis, slice)
        self.boxes = []

    def encode(self, axis, index):
        self.encoded.append((axis, index))
        view = torch.zeros(1, 1, self.side, self.side)
        plane = torch.from_numpy(self.scan.take(index, axis=axis)).float()
        view[0, 0, : plane.shape[0], : plane.shape[1]] = plane
        return Encoded(view, ())

    def prompt(self, image, prompts):
        (box,) = prompts.boxes.tolist()
        self.boxes.append(box)
        places = torch.arange(self.side) + 0.5
        inside = [
            (places > low) & (places < high) for low, high in zip(box[:2], box[2:], strict=True)
        ]
        mask = inside[0][:, None] & inside[1][None] & (image[0, 0] > 0.5)
        return Prompted(mask[None].float() * 8 - 4, image, mask.float().sum()[None])


def ask(scan, *, box=None, foreground=(), background=(), spacing=ISOTROPIC):
    model = Seer(scan)
    marked = make_prompt(scan.shape, box=box, foreground=foreground, background=background)
    return first_mask(model, scan.shape, spacing, marked, model.encode), model


@pytest.fixture
def tube():
    """A tube of 6 x 6 voxels along K in a scan of 32 x 32 x 20, from slice 5 to 15."""
    scan = np.zeros((32, 32, 20), dtype=np.float32)
    scan[10:16, 12:18, 5:16] = 1
    return scan


def test_a_box_is_filled_where_it_was_drawn_and_no_further(tube):
    mask, _ = ask(tube, box=(9, 16, 11, 18, 7, 13), spacing=(1, 1, 3))
    expected = tube > 0
    expected[..., :7] = expected[..., 14:] = False
    np.testing.assert_array_equal(mask, expected)


def test_a_flat_box_is_carried_to_where_the_structure_ends(tube):
    mask, model = ask(tube, box=(9, 16, 11, 18, 10, 10), spacing=(1, 1, 3))
    np.testing.assert_array_equal(mask, tube > 0)
    asked = [index for axis, index in model.encoded if axis == 2]
    assert min(asked) == 4  # it stops at the first slice without the tube, on both sides
    assert max(asked) == 16


def test_each_slice_is_asked_with_the_box_of_the_mask_before(tube):
    tube[13:16, :, 11:] = 0  # from there on the tube is half as wide
    _, model = ask(tube, box=(9, 16, 11, 18, 10, 10), spacing=(1, 1, 3))
    upward = model.boxes[1:9]
    assert upward[0][2] > upward[2][2]


def test_slices_between_are_interpolated_where_there_are_many():
    scan = np.zeros((32, 32, 4 * MAX_VIEWS), dtype=np.float32)
    scan[10:16, 12:18, 8:-8] = 1
    box = (9, 16, 11, 18, 10, 4 * MAX_VIEWS - 11)
    mask, model = ask(scan, box=box, spacing=(1, 1, 3))
    assert len(set(model.encoded)) <= MAX_VIEWS + 1
    assert mask[12, 14, 10 + 4 : -10 - 4].all()  # no gaps


def test_clicks_that_span_a_box_start_from_it(tube):
    clicks = [[10, 12, 10], [15, 17, 10]]
    mask, _ = ask(tube, foreground=clicks, spacing=(1, 1, 3))
    np.testing.assert_array_equal(mask, tube > 0)


def test_around_a_lone_click_several_boxes_are_tried_and_the_surest_kept(tube):
    mask, model = ask(tube, foreground=[[12, 14, 10]], spacing=(1, 1, 3))
    first = [box for box, view in zip(model.boxes, model.encoded, strict=True) if view == (2, 10)]
    assert len(first) == 3
    assert mask[12, 14, 10]


def test_a_background_click_takes_its_surroundings_out_of_its_slice(tube):
    mask, _ = ask(tube, box=(9, 16, 11, 18, 10, 10), background=[[12, 14, 13]], spacing=(1, 1, 3))
    assert not mask[11:14, 13:16, 13].any()
    assert mask[15, 17, 13]
    assert mask[12, 14, 12]


def test_a_mask_that_jumps_is_another_structure(tube):
    tube[..., 13:] = 0
    tube[24:30, 24:30, 13:] = 1
    mask, _ = ask(tube, box=(9, 16, 11, 18, 10, 10), spacing=(1, 1, 3))
    assert not mask[..., 13:].any()


def test_thick_slices_are_gone_through_and_else_the_plane_that_is_surest(tube):
    _, thick = ask(tube, box=(9, 16, 11, 18, 7, 13), spacing=(1, 3, 1))
    assert {axis for axis, _ in thick.encoded} == {1}
    mask, model = ask(tube, box=(9, 16, 11, 18, 5, 15))
    assert {axis for axis, _ in model.encoded[:3]} == {0, 1, 2}
    np.testing.assert_array_equal(mask, tube > 0)


def test_a_single_image_is_its_own_slice():
    scan = np.zeros((32, 32, 1), dtype=np.float32)
    scan[10:16, 12:18] = 1
    mask, model = ask(scan, box=(9, 16, 11, 18, 0, 0))
    np.testing.assert_array_equal(mask, scan > 0)
    assert set(model.encoded) == {(2, 0)}


def test_a_3d_model_sees_the_whole_scan_and_is_kept_to_the_box(stub_model):
    model = stub_model(3)
    views = []

    def encode(axis, index):
        views.append((axis, index))
        return Encoded(torch.zeros(1, 6, 4, 4, 4), ())

    shape = (16, 16, 16)
    marked = make_prompt(shape, box=(6, 10, 6, 10, 8, 10), foreground=[], background=[[8, 8, 10]])
    mask = first_mask(model, shape, ISOTROPIC, marked, encode)
    assert views == [(WHOLE_SCAN, 0)]
    (prompts,) = model.prompted
    assert prompts.kinds.tolist() == [[1.0, 0.0]]  # the middle of the box, and the click
    assert mask.any()
    assert not mask[..., :8].any()


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ({}, "Nothing to start from"),
        ({"background": [[1, 1, 1]]}, "Nothing to start from"),
        ({"box": [1, 2, 3]}, "6 numbers"),
        ({"foreground": [[1, 2]]}, "3 numbers"),
        ({"foreground": [[1, 2, 8]]}, "outside the scan"),
        ({"foreground": [[1, 2, 3]], "background": [[-1, 0, 0]]}, "outside the scan"),
    ],
)
def test_marks_that_cannot_be_used_are_refused_with_the_reason(marks, message):
    with pytest.raises(RequestError, match=message):
        make_prompt((8, 8, 8), **{"box": None, "foreground": [], "background": [], **marks})


@pytest.mark.parametrize(
    "odd", [7, "abc", True, {"a": 1}, [[1, 2]], [None] * 6, [float("nan")] * 6, [2**70] * 6]
)
@pytest.mark.parametrize("where", ["box", "foreground"])
def test_marks_that_are_no_voxels_are_refused(odd, where):
    marks = {"box": None, "foreground": [], "background": [], where: odd}
    with pytest.raises(RequestError):
        make_prompt((8, 8, 8), **marks)


@pytest.mark.parametrize(
    "box", [[100, 120, 5, 12, 2, 5], [-30, -20, 5, 12, 2, 5], [2, 5, 5, 12, 9, 8]]
)
def test_a_box_beside_the_scan_is_refused_and_one_that_reaches_out_is_clipped(box):
    with pytest.raises(RequestError, match=r"outside the scan, which has \[20, 22, 8\] voxels"):
        make_prompt((20, 22, 8), box=box, foreground=[], background=[])
    over = make_prompt((20, 22, 8), box=[-5, 30, 3, 40, 1, 9], foreground=[], background=[])
    assert over.box == (0, 19, 3, 21, 1, 7)
