import random

import pytest
import torch

from uncol.errors import StorageError
from uncol.generalist.probe import ProbeWorth, fit
from uncol.training.checkpoint import Checkpoint

CPU = torch.device("cpu")
STEPS = (3, 6)


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.fixture
def fresh(make_trainer, tiny_preset, stub_model, make_generalist):
    """Makes the same run anew, as another process would."""

    def make(*, mix_until=0.5, probe_dice=None):
        generalist = make_generalist(stub_model(3))
        trainer = make_trainer(
            generalist=generalist,
            steps=STEPS,
            prompt_every=3,
            labels=2,
            preset=tiny_preset(batch=4, mix_until=mix_until),
        )
        if probe_dice is not None:
            judged = ProbeWorth(probe_dice, (1.5, 1.0, 2.0))
            views = list(generalist.annotated_views(trainer.data.labeled))
            generalist.probe = fit(views, 3, seed=0, device=CPU, judged=judged, steps=5)
        return trainer

    return make


@pytest.mark.parametrize(
    "how",
    [
        {"mix_until": 0.0},
        {"mix_until": 0.5},
        {"mix_until": 1.0},
        {"probe_dice": (0.9, 0.0)},
        {"probe_dice": (0.05, 0.05)},
    ],
)
@pytest.mark.parametrize("killed_after", range(1, sum(STEPS)))
def test_an_interrupted_run_ends_in_the_same_weights(fresh, tmp_path, killed_after, how):
    whole = fresh(**how)
    told = [(step.number, step.losses) for step in whole.run()]

    first = fresh(**how)
    checkpoint = Checkpoint(tmp_path / "c.pt", "key")
    for step in first.run():
        if step.number == killed_after:
            checkpoint.save(first)
            break
    torch.manual_seed(99)  # another process has another random state
    second = fresh(**how)
    assert Checkpoint(tmp_path / "c.pt", "key").restore(second)
    rest = [(step.number, step.losses) for step in second.run()]
    assert rest == told[killed_after:]
    for network in ("student", "specialist", "adapters"):
        assert torch.equal(
            weights(getattr(second.state, network)), weights(getattr(whole.state, network))
        )


def test_another_run_s_checkpoint_is_not_taken(fresh, tmp_path):
    trainer = fresh()
    next(trainer.run())
    Checkpoint(tmp_path / "c.pt", "one").save(trainer)
    assert not Checkpoint(tmp_path / "c.pt", "other").restore(fresh())


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_checkpoint_means_a_new_start(fresh, tmp_path, damage):
    path = tmp_path / "c.pt"
    trainer = fresh()
    next(trainer.run())
    Checkpoint(path, "key").save(trainer)
    path.write_bytes(path.read_bytes()[:-500] if damage is None else damage)
    assert not Checkpoint(path, "key").restore(fresh())


def test_it_is_written_now_and_then_and_removed_at_the_end(fresh, tmp_path):
    path = tmp_path / "runs" / "c.pt"
    trainer = fresh()
    next(trainer.run())
    Checkpoint(path, "key", every_s=60).keep(trainer)
    assert not path.exists()
    checkpoint = Checkpoint(path, "key", every_s=0)
    checkpoint.keep(trainer)
    assert path.exists()
    checkpoint.remove()
    assert list(path.parent.iterdir()) == []


def test_a_full_disk_leaves_the_one_before(fresh, tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    trainer = fresh()
    next(trainer.run())
    Checkpoint(path, "key").save(trainer)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("uncol.storage.files.os.fsync", full)
    with pytest.raises(StorageError, match="last checkpoint"):
        Checkpoint(path, "key").save(trainer)
    assert path.read_bytes() == before
    assert list(tmp_path.glob("c.pt*")) == [path]


def test_no_changed_byte_is_resumed_from(fresh, tmp_path):
    path = tmp_path / "checkpoint.pt"
    trainer = fresh()
    next(iter(trainer.run()))
    Checkpoint(path, "k").save(trainer)
    good = path.read_bytes()
    generator = random.Random(0)
    taken = 0
    for _ in range(60):
        bad = bytearray(good)
        place = generator.randrange(len(bad))
        bad[place] ^= 1 + generator.randrange(255)
        path.write_bytes(bad)
        taken += Checkpoint(path, "k").restore(fresh())
    assert taken <= 3  # bytes between the archive's members, which hold nothing
    path.write_bytes(good)
    assert Checkpoint(path, "k").restore(fresh())


@pytest.mark.parametrize("content", [[1], {"key": "k"}, {"other": 1}, 3], ids=str)
def test_another_file_under_the_name_is_no_checkpoint(fresh, tmp_path, content):
    torch.save(content, tmp_path / "checkpoint.pt")
    assert not Checkpoint(tmp_path / "checkpoint.pt", "k").restore(fresh())
