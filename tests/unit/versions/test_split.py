from pathlib import Path

import pytest

from uncol.data.cases import Case
from uncol.errors import StorageError
from uncol.versions.split import FrozenSplit


def cases(annotated, others=2):
    labeled = [Case(f"case{n}", Path("i"), Path("l")) for n in range(annotated)]
    return labeled + [Case(f"other{n}", Path("i")) for n in range(others)]


def test_it_outlives_the_process_and_new_labels(tmp_path):
    first = FrozenSplit(tmp_path / "split.json").of(cases(12))
    again = FrozenSplit(tmp_path / "split.json").of(cases(40))
    assert {c.name for c in first.held_out} <= {c.name for c in again.held_out}
    assert {c.name for c in first.labeled} <= {c.name for c in again.labeled}


def test_who_trained_while_there_were_few_never_judges(tmp_path):
    early = FrozenSplit(tmp_path / "split.json").of(cases(8))
    assert not early.held_out
    later = FrozenSplit(tmp_path / "split.json").of(cases(20))
    assert later.held_out
    assert not {c.name for c in later.held_out} & {c.name for c in early.labeled}


def test_a_damaged_file_stops_training_instead_of_splitting_anew(tmp_path):
    FrozenSplit(tmp_path / "split.json").of(cases(12))
    (tmp_path / "split.json").write_text('{"case1": "tra')
    with pytest.raises(StorageError, match="never trains"):
        FrozenSplit(tmp_path / "split.json").of(cases(12))
