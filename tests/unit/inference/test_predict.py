import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from uncol.errors import NoLongerWantedError
from uncol.inference.predict import predict, probs_and_disagreement
from uncol.networks.student import Student, StudentOutput
from uncol.wanted import wanted_until

CPU = torch.device("cpu")


class Threshold(nn.Module):
    """Says foreground where the image is bright; its heads differ where it is exactly 2."""

    def forward(self, image):
        logits = torch.cat([-image, image], dim=1) * 4
        heads = [logits, logits, logits, torch.where(image == 2, -logits, logits)]
        return StudentOutput(torch.stack(heads, dim=1), image, [])


@pytest.fixture
def tiny(tiny_preset):
    torch.manual_seed(0)
    return Student(tiny_preset().spec, 3).eval()


def test_one_window_is_the_student_s_own_answer(tiny):
    image = torch.randn(1, 8, 12, 8)
    with torch.inference_mode():
        expected = tiny(image[None]).mean_logits.softmax(dim=1)[0]
    found = predict(tiny, image, (8, 12, 8), device=CPU)
    assert torch.allclose(found.probs, expected, atol=0.02)  # bfloat16 where the CPU has tiles


@given(st.tuples(*[st.integers(1, 12)] * 3), st.tuples(*[st.sampled_from([4, 8])] * 3))
def test_any_scan_fits_any_window(shape, window):
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    found = predict(Threshold(), image, window, device=CPU)
    assert found.probs.shape == (2, *shape)
    assert torch.allclose(found.probs.sum(dim=0), torch.ones(shape), atol=1e-4)
    assert torch.equal(found.probs[1] > 0.5, image[0] > 0)


def test_a_slice_is_segmented_by_a_2d_student(tiny_preset):
    student = Student(tiny_preset(2).spec, 2).eval()
    found = predict(student, torch.randn(1, 20, 13, 1), (16, 16, 1), device=CPU)
    assert found.probs.shape == (2, 20, 13, 1)


def test_disagreement_lies_where_the_heads_differ():
    image = torch.ones(1, 8, 8, 8)
    image[0, 3, 4, 5] = 2
    found = predict(Threshold(), image, (4, 4, 4), device=CPU)
    assert found.disagreement.argmax() == 3 * 64 + 4 * 8 + 5
    assert float(found.disagreement[3, 4, 5]) > 0.1
    assert float(found.disagreement[0, 0, 0]) == pytest.approx(0, abs=1e-5)


def test_a_small_scan_is_padded_with_its_own_minimum():
    seen = []

    class Listening(Threshold):
        def forward(self, image):
            seen.append(image)
            return super().forward(image)

    predict(Listening(), torch.full((1, 2, 2, 2), 3.0) - torch.eye(2) * 5, (4, 4, 4), device=CPU)
    assert float(seen[0].min()) == -2
    assert int((seen[0] == -2).sum()) == 64 - 8 + 4


def test_probabilities_come_from_the_mean_of_the_logits():
    logits = torch.tensor([0.0, 0.0, 0.0, 8.0]).reshape(1, 4, 1, 1, 1, 1)
    output = StudentOutput(torch.cat([-logits, logits], dim=2), torch.zeros(1), [])
    foreground = float(probs_and_disagreement(output)[0, 1].squeeze())
    assert foreground == pytest.approx(1 / (1 + 2.718281828**-4))  # not the mean of four sigmoids


def test_no_window_is_computed_once_nobody_waits():
    asked = []

    class Counting(Threshold):
        def forward(self, image):
            asked.append(1)
            return super().forward(image)

    with (
        wanted_until(lambda: len(asked) == 2),
        pytest.raises(NoLongerWantedError, match="Nobody waits"),
    ):
        predict(Counting(), torch.randn(1, 16, 16, 16), (4, 4, 4), device=CPU)
    assert len(asked) == 2
    predict(Counting(), torch.randn(1, 4, 4, 4), (4, 4, 4), device=CPU)
    assert len(asked) == 3
