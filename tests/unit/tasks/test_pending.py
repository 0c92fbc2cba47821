import os
import time

import pytest

from uncol.storage.model_folder import ModelFolder, checkpoint_in
from uncol.tasks.pending import MOST_TRIES, PendingTraining

OPTIONS = {"seed": 3, "step_scale": 0.5}


@pytest.fixture
def pending(tmp_path):
    return PendingTraining(ModelFolder(tmp_path))


def test_a_training_is_remembered_until_it_is_over(pending):
    assert pending.resume() is None
    pending.note(OPTIONS)
    assert pending.resume() == OPTIONS
    pending.over()
    assert pending.resume() is None


def test_one_that_never_gets_anywhere_is_given_up(pending):
    pending.note(OPTIONS)
    assert [pending.resume() for _ in range(MOST_TRIES)] == [OPTIONS] * MOST_TRIES
    assert pending.resume() is None
    assert pending.resume() is None
    pending.note(OPTIONS)  # somebody presses Train again
    assert pending.resume() == OPTIONS


def test_one_that_gets_on_is_resumed_as_often_as_it_takes(pending, tmp_path):
    pending.note(OPTIONS)
    checkpoint = checkpoint_in(ModelFolder(tmp_path).runs)
    for number in range(3 * MOST_TRIES):
        checkpoint.write_bytes(b"a step")
        later = time.time() + number + 1
        os.utime(checkpoint, (later, later))
        assert pending.resume() == OPTIONS


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seed": 0}', '{"options": 3, "tries": 0}'])
def test_a_damaged_note_is_none(pending, tmp_path, text):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "request.json").write_text(text)
    assert pending.resume() is None
