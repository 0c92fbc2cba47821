import numpy as np
import torch

from uncol.calibration.label_check import check_label
from uncol.data.frame import Space, make_frame
from uncol.data.grid import Grid
from uncol.data.labels import IGNORE_VALUE

LABELS = {"a": 1, "b": 2}
SHAPE = (12, 14, 10)
GRID = Grid(SHAPE, np.diag([-2.0, 1.0, 3.0, 1.0]))  # runs against R, so places must be turned
FRAME = make_frame(GRID, Space("RAS", (2.0, 1.0, 3.0)))


def drawn(value: int = 1) -> np.ndarray:
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[3:9, 3:9, 2:8] = value
    return label


def sure_of(label: np.ndarray, probability: float = 0.97) -> torch.Tensor:
    rest = (1 - probability) / 2
    hot = np.stack([label == value for value in range(3)])
    return torch.from_numpy(np.where(hot, probability, rest)).float()


def agreeing(label: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    probs = torch.from_numpy(np.stack([label == 1, label == 2])).float()
    return probs, torch.ones(SHAPE, dtype=torch.bool)


def check(label, specialist, generalist=None):
    return check_label("p1", label, specialist, generalist, frame=FRAME, labels=LABELS)


def test_an_agreed_label_is_not_in_doubt() -> None:
    assert check(drawn(), sure_of(drawn()), agreeing(drawn())) is None


def test_a_piece_that_was_left_out_is_found_where_it_lies() -> None:
    full, cut = drawn(), drawn()
    cut[3:6, 3:9, 2:8] = 0
    doubt = check(cut, sure_of(full), agreeing(full))
    assert doubt is not None
    assert doubt.label == "a"
    assert doubt.share == 0.5
    # working axes run the other way along the first one: 3..5 there is 6..8 in the scan
    middle = GRID.affine @ [12 - 1 - 4, 5.5, 4.5, 1.0]
    np.testing.assert_allclose(doubt.place.center_mm, [-middle[0], -middle[1], middle[2]])
    assert 2 <= doubt.place.slice < 8
    assert "p1, slice" in doubt.text
    assert "drawn as background, specialist and generalist say a" in doubt.text


def test_a_mistaken_label_is_named() -> None:
    doubt = check(drawn(2), sure_of(drawn(1)), agreeing(drawn(1)))
    assert doubt is not None
    assert "drawn as b, specialist and generalist say a" in doubt.text
    assert doubt.share == 1.0


def test_one_of_them_alone_is_not_enough() -> None:
    assert check(drawn(2), sure_of(drawn(1)), agreeing(drawn(2))) is None
    assert check(drawn(2), sure_of(drawn(1), 0.6), agreeing(drawn(1))) is None
    assert check(drawn(2), sure_of(drawn(1))) is not None  # no generalist at all


def test_voxels_that_nobody_annotated_are_never_in_doubt() -> None:
    label = drawn(2)
    label[label == 2] = IGNORE_VALUE
    assert check(label, sure_of(drawn(1)), agreeing(drawn(1))) is None


def test_only_slices_the_generalist_saw_count() -> None:
    probs, seen = agreeing(drawn(1))
    seen[..., 4:] = False
    doubt = check(drawn(2), sure_of(drawn(1)), (probs, seen))
    assert doubt is not None
    assert doubt.place.slice in (2, 3)
