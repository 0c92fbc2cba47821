import pytest
import torch

from uncol.errors import WeightsError
from uncol.generalist.models import load_foundation_model
from uncol.generalist.models.protocol import Prompts


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_foundation_model(
        "litemedsam", weights=None, weights_dir=tmp_path_factory.mktemp("none")
    )


@pytest.mark.slow
def test_a_tight_box_finds_a_bright_ellipse(model):
    i, j = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    truth = ((i - 110) / 34) ** 2 + ((j - 150) / 52) ** 2 <= 1
    noise = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    view = truth.float() + 0.1 * noise
    encoded = model.encode(view[None, None])
    assert encoded.image.shape == (1, 256, 64, 64)
    assert [tuple(s.shape[:2]) for s in encoded.hidden] == [(1, c) for c in model.hidden_channels]
    box = torch.tensor([[76.0, 98, 145, 203]])
    prompted = model.prompt(encoded.image, Prompts(boxes=box))
    found = (
        torch.nn.functional.interpolate(prompted.logits[:, None], 256, mode="bilinear")[0, 0] > 0
    )
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert float(dice) > 0.6
    swapped = prompted.logits.transpose(1, 2)[:, None]
    turned = torch.nn.functional.interpolate(swapped, 256, mode="bilinear")[0, 0] > 0
    assert 2 * (turned & truth).sum() / (turned.sum() + truth.sum()) < dice  # i and j not confused


@pytest.mark.slow
def test_a_weights_file_of_one_s_own_is_loaded_in_place_of_the_shipped_one(tmp_path, model):
    state = {name: value.clone() for name, value in model.network.state_dict().items()}
    first = next(name for name, value in state.items() if value.is_floating_point())
    state[first] += 1
    torch.save({"model": state, "epoch": 1}, tmp_path / "own.pth")
    own = load_foundation_model("litemedsam", weights=tmp_path / "own.pth", weights_dir=tmp_path)
    assert torch.equal(own.network.state_dict()[first], state[first])
    assert own.fingerprint != model.fingerprint


@pytest.mark.slow
def test_a_weights_file_that_is_missing_or_garbage_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        load_foundation_model("litemedsam", weights=tmp_path / "gone.pth", weights_dir=tmp_path)
    (tmp_path / "bad.pth").write_bytes(b"garbage")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_foundation_model("litemedsam", weights=tmp_path / "bad.pth", weights_dir=tmp_path)
