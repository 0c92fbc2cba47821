from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncol.selection import queue as module
from uncol.selection.queue import Queue
from uncol.selection.scores import Embedding, LabelScore, Score, embeddings_of, scores_of
from uncol.selection.strategies import STRATEGIES
from uncol.storage.files import write_text
from uncol.tasks.strategy import Leases
from uncol.versions.store import ModelStore

CASES = frozenset(f"case{number}" for number in range(8))


def score(case: str, value: float) -> Score:
    labels = {"a": LabelScore(uncertainty=value, voxels=10, dice=0.7)}
    return Score(case=case, quality=0.7, interval=(0.5, 0.9), band="check", labels=labels)


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path)


def serve(store, version, values) -> None:
    for name, value in values.items():
        scores_of(store.folder, version).add(score(name, value))
    write_text(store.folder.current, str(version))


def first(queue, waiting=CASES, labeled=frozenset(), strategy="uncertainty", seed=0):
    return [c.case for c in queue.order(strategy, seed, waiting=waiting, labeled=labeled)]


def test_scores_and_then_a_new_model_change_the_order(store) -> None:
    queue = Queue(store, "none")
    assert set(first(queue)) == CASES
    serve(store, 1, {name: 0.9 if name == "case3" else 0.2 for name in CASES})
    assert first(queue)[0] == "case3"
    serve(store, 2, {name: 0.9 if name == "case5" else 0.2 for name in CASES})
    assert first(queue)[0] == "case5"
    assert queue.score("case5").labels["a"].uncertainty == 0.9


@given(st.lists(st.tuples(st.sampled_from(sorted(CASES)), st.booleans()), max_size=12))
def test_a_labeled_case_never_comes_and_comes_back_with_its_label_removed(changes) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        store = ModelStore(Path(folder))
        serve(store, 1, dict.fromkeys(CASES, 0.3))
        queue, labeled = Queue(store, "none"), set()
        for name, add in changes:
            (labeled.add if add else labeled.discard)(name)
            for strategy in STRATEGIES:
                order = first(queue, CASES - labeled, frozenset(labeled), strategy)
                assert sorted(order) == sorted(CASES - labeled)


def test_until_a_new_model_has_scored_a_case_the_one_before_counts(store, tmp_path) -> None:
    serve(store, 1, {name: 0.9 if name == "case3" else 0.2 for name in CASES})
    queue = Queue(store, "none")
    for number in (1, 2):
        (store.folder.versions / str(number)).mkdir(parents=True)
    serve(store, 2, {"case6": 0.3})
    assert first(queue)[:2] == ["case3", "case6"]


def test_the_stored_order_is_there_after_a_restart(store) -> None:
    serve(store, 1, dict.fromkeys(CASES, 0.3))
    queue = Queue(store, "none")
    order = first(queue, seed=4)
    queue.refresh(waiting=CASES, labeled=frozenset())
    again = Queue(store, "none")
    assert again._orders
    assert first(again, seed=4) == order


def test_a_damaged_store_is_ranked_anew(store) -> None:
    queue = Queue(store, "none")
    order = first(queue)
    queue.refresh(waiting=CASES, labeled=frozenset())
    store.folder.queue.write_text("[{")
    assert first(Queue(store, "none")) == order


def test_a_large_pool_is_answered_from_the_order_at_hand(store, monkeypatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 3)
    queue = Queue(store, "none")
    before = first(queue)
    serve(store, 1, {name: 0.9 if name == before[-1] else 0.2 for name in CASES})
    assert first(queue) == before
    assert first(queue, CASES - {before[0]}, {before[0]}) == before[1:]
    late = first(queue, CASES | {"new"})
    assert late == [*before, "new"]
    queue.refresh(waiting=CASES, labeled=frozenset())
    assert first(queue)[0] == before[-1]


def test_a_line_cut_short_by_a_kill_loses_nothing_else(store) -> None:
    ledger = scores_of(store.folder, 1)
    ledger.add(score("one", 0.1))
    with ledger.path.open("ab") as stream:
        stream.write(b'{"case": "two", "qual')
    ledger.add(score("three", 0.3))
    assert set(ledger.read()) == {"one", "three"}
    ledger.add(score("one", 0.5))
    assert scores_of(store.folder, 1).read()["one"].uncertainty == 0.5


def test_embeddings_count_before_any_model(store) -> None:
    for name in CASES:
        embeddings_of(store.folder, "stub").add(Embedding(case=name, vector=(float(name[-1]), 1.0)))
    order = Queue(store, "stub").order("uncol", 0, waiting=CASES, labeled=frozenset())
    assert "foundation model" in order[0].reason


def test_twenty_clients_at_once_get_twenty_cases(store) -> None:
    cases = frozenset(f"case{number:02d}" for number in range(40))
    queue, leases = Queue(store, "none"), Leases()

    def ask(client: int) -> str:
        order = queue.order("uncol", 0, waiting=cases, labeled=frozenset())
        chosen = leases.take(order, f"client {client}")
        assert chosen is not None
        return chosen.case

    with ThreadPoolExecutor(20) as clients:
        assert len(set(clients.map(ask, range(20)))) == 20


def test_who_asks_again_skips_and_gets_the_skipped_ones_last(store) -> None:
    order = Queue(store, "none").order("first", 0, waiting={"a", "b"}, labeled=frozenset())
    leases = Leases()
    assert [leases.take(order, "me").case for _ in range(4)] == ["a", "b", "a", "b"]
    assert leases.take(order, "you") is None


def test_a_lease_ends(store, monkeypatch) -> None:
    from uncol.tasks import strategy

    order = Queue(store, "none").order("first", 0, waiting={"a"}, labeled=frozenset())
    leases = Leases()
    assert leases.take(order, "me").case == "a"
    assert leases.take(order, "you") is None
    monkeypatch.setattr(strategy, "LEASE_S", -1.0)
    assert leases.take(order, "you").case == "a"
