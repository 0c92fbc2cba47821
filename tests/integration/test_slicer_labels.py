"""Labels that Slicer's client submits in part or twice, and many clients at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from uncol.data.labels import IGNORE_VALUE, REVIEWED_VALUE, annotated_part
from uncol.data.scan import read_label, write_volume

pytestmark = pytest.mark.integration


def test_logs_and_a_strategy_with_options_answer(live: Any, client: Any) -> None:
    lines = requests.get(f"{live.url}/logs/?lines=20&text=true", timeout=60)
    assert lines.ok
    chosen = client.next_sample("random", {"seed": 3})
    assert chosen["id"] in client.datastore()["objects"]


def test_twenty_clients_asking_at_once_share_the_pool(live: Any) -> None:
    def ask(number: int) -> str | None:
        body = {"client_id": f"reader {number}"}
        reply = requests.post(f"{live.url}/activelearning/uncol", json=body, timeout=60)
        return reply.json().get("id")

    with ThreadPoolExecutor(20) as readers:
        given = [case for case in readers.map(ask, range(20)) if case]
    assert len(given) == len(set(given))


def test_a_partly_reviewed_label_trains_only_where_it_was_reviewed(
    live: Any, client: Any, tmp_path: Path
) -> None:
    """As Slicer's stock client sends it: a segment `reviewed`, dabbed into a finished slice."""
    objects = client.datastore()["objects"]
    case = next(n for n, o in objects.items() if "final" not in o["labels"])
    truth = read_label(live.truth / f"{case}.nii.gz")
    drawn = truth.array.astype(np.uint8)
    slice_done = int((drawn > 0).sum(axis=(0, 1)).argmax())
    drawn[2:4, 2:4, slice_done] = len(live.labels) + 1
    write_volume(tmp_path / "partial.nii.gz", drawn, truth.grid)
    info = [{"name": name, "idx": value} for name, value in live.labels.items()]
    info.append({"name": "reviewed", "idx": len(live.labels) + 1})
    client.save_label(case, str(tmp_path / "partial.nii.gz"), params={"label_info": info})
    saved = client.datastore()["objects"][case]["labels"]["final"]["info"]["label_info"]
    assert {"name": "reviewed", "idx": REVIEWED_VALUE} in saved
    kept = read_label(client.download_label(case, "final")).array
    counted = annotated_part(kept)
    assert (counted[..., slice_done] != IGNORE_VALUE).mean() > 0.95
    assert (np.delete(counted, slice_done, axis=2) == IGNORE_VALUE).all()
    np.testing.assert_array_equal(
        kept[kept != REVIEWED_VALUE], truth.array[kept != REVIEWED_VALUE]
    )  # nothing that was drawn is lost


def test_dice_scoring_of_equal_labels_is_one(live: Any, client: Any) -> None:
    case = next(iter(client.datastore()["objects"]))
    truth = str(live.truth / f"{case}.nii.gz")
    info = [{"name": name, "idx": value} for name, value in live.labels.items()]
    client.save_label(case, truth, params={"label_info": info})
    client.save_label(case, truth, tag="second_reader")
    reply = requests.post(
        f"{live.url}/scoring/dice?run_sync=true", json={"y_pred": "second_reader"}, timeout=60
    )
    assert reply.json()[case]["dice"] == 1.0
