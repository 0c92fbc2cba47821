from dataclasses import fields

import pytest

from uncol.method.recipe import MODES, Mode


@pytest.mark.parametrize("switch", [field.name for field in fields(Mode)])
def test_each_switch_is_off_as_intended_and_on_as_released(switch):
    assert getattr(MODES["intended"], switch) is False
    assert getattr(MODES["release"], switch) is True
