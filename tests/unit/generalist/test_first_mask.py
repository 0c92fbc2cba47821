import pytest

from uncol.errors import RequestError
from uncol.generalist.first_mask import make_prompt


@pytest.mark.parametrize(
    "odd", [7, "abc", True, {"a": 1}, [[1, 2]], [None] * 6, [float("nan")] * 6, [2**70] * 6]
)
@pytest.mark.parametrize("where", ["box", "foreground"])
def test_marks_that_are_no_voxels_are_refused(odd, where):
    marks = {"box": None, "foreground": [], "background": [], where: odd}
    with pytest.raises(RequestError):
        make_prompt((8, 8, 8), **marks)
