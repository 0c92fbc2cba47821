"""What an earlier version kept among the notes is taken over, if it is of its kind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.datastores.pacs_state import LabelState, StoredResult, from_notes

SCAN, STUDY = "1.2.3", "1.2"
OLD = {
    "name": "1.2.3.nii.gz",
    "Modality": "MR",
    "PatientID": "7",
    "SeriesInstanceUID": SCAN,
    "StudyInstanceUID": STUDY,
    "segmentations": ["1.9"],
    "results": {"STUDENT": {"series": "1.5", "instance": "1.6", "class": "1.7"}},
    "label_refused": "",
    "mine": "kept",
}


def test_what_stood_in_the_index_is_taken_over_and_out_of_it() -> None:
    image, label = dict(OLD), {"pacs": "stored", "SeriesInstanceUID": "1.9", "user": "ada"}
    state = from_notes(SCAN, image, label)
    assert state.study_uid == STUDY
    assert state.tags == {"Modality": "MR", "PatientID": "7"}
    assert state.segmentations == ("1.9",)
    assert state.results == {"STUDENT": StoredResult(series="1.5", instance="1.6", sop_class="1.7")}
    assert state.label == LabelState(pacs="stored", series="1.9")
    assert image == {"name": "1.2.3.nii.gz", "mine": "kept"}
    assert label == {"user": "ada"}
    assert state.told(SCAN)["Modality"] == "MR"
    assert state.told_of_label()["SeriesInstanceUID"] == "1.9"
    assert from_notes(SCAN, image, label) is None  # once


@pytest.mark.parametrize(
    "notes",
    [
        {"segmentations": 5},
        {"results": {"STUDENT": 7}},
        {"results": 3},
        {"results": {"STUDENT": {}}},
        {"results": {"STUDENT": {"series": SCAN, "instance": "1.2", "class": "1.2"}}},
        {"unusable": {"a": 1}},
        {"StudyInstanceUID": "../../system?x="},
    ],
    ids=str,
)
def test_what_a_client_wrote_there_is_dropped(notes) -> None:
    state = from_notes(SCAN, {**OLD, **notes}, None)
    assert all(one.series != SCAN for one in state.results.values())
    assert not state.unusable
    assert "/" not in state.study_uid


values = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=8), st.just(SCAN)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
words = st.sampled_from(["segmentations", "results", "unusable", "label_refused", "pacs", "x"])


@given(st.dictionaries(words, values), st.one_of(st.none(), st.dictionaries(words, values)))
def test_whatever_stood_there_a_state_comes_out(image, label) -> None:
    state = from_notes(SCAN, {"StudyInstanceUID": STUDY, **image}, label)
    assert state.study_uid == STUDY
    state.told(SCAN)
