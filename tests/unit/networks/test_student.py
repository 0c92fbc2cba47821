import pytest
import torch
from torch import nn

from uncol.networks.student import CrossAttention, Student, StudentOutput, parameter_count
from uncol.training.presets import PRESETS


@pytest.fixture
def student(tiny_preset):
    def make(dims, classes=2):
        torch.manual_seed(0)
        return Student(tiny_preset(dims).spec, classes).eval()

    return make


@pytest.mark.parametrize(("preset", "millions"), [("paper2d", 3.525), ("paper3d", 13.940)])
def test_the_deployed_student_has_the_paper_s_number_of_parameters(preset, millions):
    student = Student(PRESETS[preset].spec, classes=2)
    assert parameter_count(student) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(("dims", "shape"), [(2, (24, 16, 1)), (3, (8, 12, 16))])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_shapes_follow_the_image_whatever_its_size(student, tiny_preset, dims, shape, classes):
    spec = tiny_preset(dims).spec
    output = student(dims, classes)(torch.randn(2, 1, *shape))
    tokens = tuple(max(1, size // 4) for size in shape)
    assert output.logits.shape == (2, 4, classes, *shape)
    assert output.prior.shape == (2, spec.channels[-1], *tokens)
    assert [block.shape for block in output.hidden] == [(2, spec.prior_dim, *tokens)] * 2


@pytest.mark.parametrize("dims", [2, 3])
def test_the_decoder_consumes_the_prior_unless_given_something_else(student, dims):
    network = student(dims)
    image = torch.randn(1, 1, 16, 16, 16 if dims == 3 else 1)
    with torch.no_grad():
        own = network(image)
        same = network(image, knowledge=lambda prior: prior)
        other = network(image, knowledge=lambda prior: prior + 1)
    assert torch.equal(own.logits, same.logits)
    assert not torch.allclose(own.logits, other.logits)
    assert torch.equal(own.prior, other.prior)


@pytest.mark.parametrize("dims", [2, 3])
def test_each_item_of_a_batch_is_segmented_on_its_own(student, dims):
    network = student(dims)
    image = torch.randn(3, 1, 16, 16, 16 if dims == 3 else 1)
    with torch.no_grad():
        together = network(image).logits
        alone = torch.cat([network(item[None]).logits for item in image])
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_gradient_reaches_every_parameter(student, dims):
    network = student(dims).train()
    output = network(torch.randn(2, 1, 16, 16, 16 if dims == 3 else 1))
    (output.logits.square().mean() + output.prior.square().mean()).backward()
    # key and value are reached through the attention; a bias before a norm gets a zero, not None
    assert all(parameter.grad is not None for parameter in network.parameters())
    heads = [head.parameters() for head in network.heads]
    assert all(any(float(p.grad.abs().max()) > 0 for p in head) for head in heads)


def test_the_mean_of_the_heads_is_over_logits():
    logits = torch.stack([torch.full((1, 2, 1, 1, 1), v) for v in (0.0, 1.0, 2.0, 5.0)], dim=1)
    output = StudentOutput(logits, torch.zeros(1), [])
    assert output.mean_logits.flatten().tolist() == [2.0, 2.0]


def test_attention_without_weight_changes_nothing():
    attention = CrossAttention(4)
    nn.init.zeros_(attention.out.weight)
    nn.init.zeros_(attention.out.bias)
    bottleneck = torch.randn(1, 4, 2, 2, 2)
    assert torch.equal(attention(bottleneck, torch.randn(1, 4, 2, 2, 2)), bottleneck)


def test_attention_that_does_not_ask_adds_the_mean_of_what_is_known():
    attention = CrossAttention(4)
    nn.init.zeros_(attention.query.weight)
    nn.init.zeros_(attention.query.bias)
    for part in (attention.value, attention.out):
        nn.init.eye_(part.weight)
        nn.init.zeros_(part.bias)
    bottleneck, known = torch.randn(1, 4, 2, 3), torch.randn(1, 4, 5, 1)
    expected = bottleneck + known.mean(dim=(2, 3), keepdim=True)
    assert torch.allclose(attention(bottleneck, known), expected, atol=1e-6)


def test_attention_has_one_head_in_effect_with_the_scale_of_four():
    attention = CrossAttention(4)  # scale (4 / 4) ** -0.5 = 1
    for part in (attention.query, attention.key, attention.value, attention.out):
        nn.init.eye_(part.weight)
        nn.init.zeros_(part.bias)
    bottleneck = torch.tensor([1.0, 0, 0, 0]).reshape(1, 4, 1)
    known = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]).T[None]  # scores 1 and 0
    share = torch.tensor([1.0, 0]).softmax(0)[0]
    assert float(attention(bottleneck, known)[0, 0, 0].detach()) == pytest.approx(float(1 + share))
