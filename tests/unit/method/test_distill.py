import pytest
import torch

from uncol.method.distill import Adapters, knowledge, masked_mse, student_blocks, visual


@pytest.mark.parametrize(
    ("states", "depth", "expected"),
    [(2, 4, [1, 2]), (3, 4, [0, 1, 2]), (2, 2, [0, 1]), (3, 2, [0, 1]), (1, 4, [1]), (1, 1, [0])],
)
def test_generalist_states_meet_the_released_student_blocks(states, depth, expected):
    assert list(student_blocks(states, depth)) == expected


def test_masked_mse_by_hand():
    first = torch.tensor([[1.0, 5.0], [3.0, 7.0]]).reshape(
        1, 2, 2, 1, 1
    )  # two channels, two tokens
    second = torch.zeros_like(first)
    valid = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1, 1)
    assert float(masked_mse(first, second, valid)) == (1 + 9) / 2
    assert (
        float(masked_mse(first, second, torch.ones_like(valid)))
        == ((1 + 9) / 2 + (25 + 49) / 2) / 2
    )


def test_masked_mse_of_everything_is_torch_s():
    torch.manual_seed(0)
    first, second = torch.randn(2, 2, 5, 3, 3, 3)
    expected = torch.nn.functional.mse_loss(first, second)
    assert torch.allclose(masked_mse(first, second, torch.ones(2, 1, 3, 3, 3)), expected)


def test_nothing_valid_costs_nothing():
    student = torch.randn(1, 2, 2, 2, 2, requires_grad=True)
    loss = masked_mse(torch.randn(1, 2, 2, 2, 2), student, torch.zeros(1, 1, 2, 2, 2))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(student.grad.abs().max()) == 0


def test_the_visual_term_is_the_mean_over_levels():
    ones = torch.ones(1, 2, 1, 1, 1)
    value = visual([ones, 3 * ones], [0 * ones, 0 * ones], torch.ones(1, 1, 1, 1, 1))
    assert float(value) == (1 + 9) / 2


def test_levels_must_pair_up():
    with pytest.raises(ValueError, match="argument 2"):
        visual([torch.ones(1, 1, 1, 1, 1)], [], torch.ones(1, 1, 1, 1, 1))


def test_gradient_reaches_student_and_projection_but_not_the_generalist():
    adapters = Adapters(
        hidden_channels=(5, 5), token_channels=6, foreground=2, student_dim=4, student_width=7
    )
    state = torch.randn(1, 5, 2, 2, 2)
    student = torch.randn(1, 4, 2, 2, 2, requires_grad=True)
    visual([adapters.project_hidden(state)], [student], torch.ones(1, 1, 2, 2, 2)).backward()
    assert float(student.grad.abs().max()) > 0
    assert float(adapters.visual["5"].weight.grad.abs().max()) > 0
    assert state.grad is None
    assert adapters.semantic.weight.grad is None


def test_states_of_one_width_share_a_projection():
    def build(*widths):
        return Adapters(
            hidden_channels=widths, token_channels=6, foreground=2, student_dim=4, student_width=7
        )

    assert len(build(5, 5, 5).visual) == 1
    assert len(build(5, 9).visual) == 2
    assert build(5, 9).project_hidden(torch.randn(1, 9, 2, 2, 2)).shape == (1, 4, 2, 2, 2)


def test_adapters_have_the_paper_s_size():
    # sections 1.2, 1.3 and 1.5: 3D, one foreground class: 768 * 256 + 384 * 256
    adapters = Adapters(
        hidden_channels=(768,) * 3,
        token_channels=384,
        foreground=1,
        student_dim=256,
        student_width=256,
    )
    count = sum(parameter.numel() for parameter in adapters.parameters())
    assert count / 1e6 == pytest.approx(14.235 - 13.940, abs=1e-3)


def test_the_decoder_gets_the_generalist_where_there_is_one():
    valid = torch.tensor([1.0, 0.0, 0.5]).reshape(1, 1, 3, 1, 1)
    mixed = knowledge(torch.full((1, 2, 3, 1, 1), 8.0), torch.full((1, 2, 3, 1, 1), -2.0), valid)
    assert mixed[0, 0].flatten().tolist() == [8, -2, 3]
