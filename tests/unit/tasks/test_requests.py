import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.errors import RequestError
from uncol.tasks.requests import (
    BatchRequest,
    InferRequest,
    SampleRequest,
    ScoringRequest,
    TrainRequest,
)

KINDS = (InferRequest, TrainRequest, ScoringRequest, SampleRequest, BatchRequest)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
fields = sorted({name for kind in KINDS for name in kind.model_fields} | {"bundle_path", "gpus"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", ["bundle_path", "model", "image", "method", "_id", "case"])
def test_a_field_that_is_not_a_clients_is_refused_by_name(kind, word) -> None:
    with pytest.raises(RequestError, match=f"no option '{word}'"):
        kind.of({word: "/tmp"})


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(fields), json_values, max_size=5))
def test_anything_is_a_request_or_refused_in_words(kind, body) -> None:
    try:
        asked = kind.of(body)
    except RequestError as error:
        str(error).encode()  # it can be sent
        return
    assert isinstance(asked, kind)


def test_what_slicer_sends_is_understood() -> None:
    asked = InferRequest.of(
        {
            "device": ["cpu"],
            "result_extension": ".nrrd",
            "result_dtype": "uint8",
            "client_id": "user-xyz",
            "label": "a",
            "a": [[1, 2, 3]],
            "roi": [0, 5, 0, 5, 0, 5],
            "slice": 3,
            "reset_state": True,
        },
        ["a", "b"],
    )
    assert asked.clicks == {"a": [[1, 2, 3]]}
    assert asked.roi == [0, 5, 0, 5, 0, 5]


def test_what_ohif_sends_is_understood() -> None:
    body = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    asked = InferRequest.of({**body, "restore_label_idx": False, "label_prompt": [1]})
    assert asked.result_compress is False


@pytest.mark.parametrize("value", ["true", True, 1, "1", "Yes"])
def test_flags_come_in_many_forms(value) -> None:
    assert InferRequest.of({"save_label": value}).save_label


def test_a_map_is_a_flag_or_a_kind() -> None:
    assert InferRequest.of({"map": "true"}).map is True
    assert InferRequest.of({"map": "disagreement"}).map == "disagreement"
    with pytest.raises(RequestError, match="map"):
        InferRequest.of({"map": "something"})


@pytest.mark.parametrize("seed", [float("inf"), 1e400, float("nan"), "x", [], None, 1.5])
def test_an_odd_seed_is_refused(seed) -> None:
    for kind in (TrainRequest, SampleRequest):
        with pytest.raises(RequestError, match="seed"):
            kind.of({"seed": seed})


def test_a_label_called_like_an_option_stays_an_option() -> None:
    assert InferRequest.of({"label": "device"}, ["device"]).label == "device"
    assert InferRequest.of({"device": "cpu"}, ["device"]).device == "cpu"
