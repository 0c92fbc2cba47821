import numpy as np
import pytest
from balls import SHAPE, ball_case, write

from uncol.data.cases import Case
from uncol.errors import RequestError
from uncol.packages import package_versions
from uncol.training.reporter import Reporter
from uncol.training.round import train_round
from uncol.training.verify import verify
from uncol.versions.store import ModelStore


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_settings):
    """A version of twelve labels, two of them held out, and its pool."""
    folder = tmp_path_factory.mktemp("verify")
    cases = [ball_case(folder, number, annotated=number < 12) for number in range(14)]
    settings = tiny_settings(folder / "model", step_scale=0.02)
    train_round(cases, settings, Reporter())
    return ModelStore(folder / "model"), cases, settings


def check(made, cases=None, *, earlier=None, retrain=False):
    store, pool, settings = made
    return verify(store, 1, cases or pool, earlier or {}, settings, Reporter(), retrain=retrain)


def test_a_version_is_what_its_manifest_says_to_the_last_bit(made):
    found = check(made, retrain=True)
    assert found.holds
    assert len(found.dice) == 2
    assert found.weights == 0
    assert found.packages == {}


def test_packages_that_changed_since_are_named(made, monkeypatch):
    now = package_versions()
    monkeypatch.setattr("uncol.training.verify.package_versions", lambda: now | {"monai": "9.9"})
    assert check(made).packages == {"monai": (now["monai"], "9.9")}


def test_a_label_that_came_later_does_not_matter(made, tmp_path):
    _, cases, _ = made
    later = Case("c13", cases[13].image, cases[12 - 1].label)
    assert check(made, [*cases[:13], later], retrain=True).weights == 0


def test_a_changed_label_is_found_and_the_one_of_then_taken(made, tmp_path):
    store, cases, _ = made
    name = store.manifest(1).cases["held_out"][0]
    changed = write(tmp_path / "new.nii.gz", np.ones(SHAPE, np.uint8))
    pool = [Case(c.name, c.image, changed) if c.name == name else c for c in cases]
    found = check(made, pool)
    assert found.changed == [name]
    assert not found.holds
    (old,) = [c.label for c in cases if c.name == name]
    assert check(made, pool, earlier={name: [old]}).holds


def test_a_case_that_is_gone_is_named(made):
    _, cases, _ = made
    with pytest.raises(RequestError, match=r"gone: .*c0"):
        check(made, cases[1:])
