"""Every REST call of a Slicer session, with the client of Slicer's stock plug-in."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import requests
import SimpleITK as sitk

from uncol.data.labels import IGNORE_VALUE
from uncol.data.scan import read_label, read_scan, write_volume
from uncol.versions.metrics import dice_per_label

pytestmark = pytest.mark.integration

SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8"}  # what the plug-in always sends
INFERS = ["uncol", "uncol_uncertainty", "uncol_overlay", "uncol_rois", "uncol_prompt"]


def submit(client: Any, live: Any, case: str) -> dict[str, Any]:
    info = [{"name": name, "idx": value} for name, value in live.labels.items()]
    truth = str(live.truth / f"{case}.nii.gz")
    return client.save_label(case, truth, params={"label_info": info, "model": "uncol"})


def wait_for_training(client: Any, limit_s: float = 400) -> dict[str, Any]:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        state = client.train_status()
        if state["status"] not in ("SUBMITTED", "RUNNING"):
            return state
        time.sleep(2)
    pytest.fail("training did not end in time")


def test_a_whole_session_as_slicer_plays_it(live: Any, client: Any) -> None:
    # login, info
    assert client.auth_enabled() is False
    info = client.info()
    assert list(info["models"]) == INFERS
    assert "config" not in info  # the plug-in refuses a server that sends it
    assert info["labels"] == list(live.labels)
    assert list(info["trainers"]) == ["uncol"]
    assert next(iter(info["strategies"])) == "uncol"
    assert set(info["strategies"]) == {
        "uncol", "uncertainty", "foreground_random", "random", "first",
    }  # fmt: skip
    assert set(info["scoring"]) == {"uncol", "dice"}

    # before the first model: a case, and a first mask from a box
    first = client.next_sample("uncol", {})
    assert Path(first["path"]).exists()
    assert first["reason"]
    case = first["id"]
    truth = read_label(live.truth / f"{case}.nii.gz").array
    label, value = next(iter(live.labels.items()))
    corners = np.argwhere(truth == value)
    roi = np.stack([corners.min(axis=0), corners.max(axis=0)], axis=1).ravel().tolist()
    file, params = client.infer("uncol_prompt", case, {**SLICER, "label": label, "roi": roi})
    mask = read_label(file).array
    assert mask.shape == truth.shape
    assert params["label_names"] == {label: 1}
    assert set(np.unique(mask)) == {0, 1}

    # labels, training with progress
    names = sorted(client.datastore()["objects"])
    for name in [case, *[n for n in names if n != case][:2]]:
        assert submit(client, live, name)["image"] == name
    assert client.info()["datastore"]["completed"] == 3

    # before the first training, the labels are carried over to other cases
    objects = client.datastore()["objects"]
    labeled = {name for name in names if "final" in objects[name]["labels"]}
    file, params = client.infer("uncol", min(set(names) - labeled), SLICER)
    assert params["uncol"]["model_version"] is None
    assert set(params["uncol"]["carried_from"]) == labeled
    assert params["label_names"] == live.labels
    scan = read_scan(live.studies / f"{min(set(names) - labeled)}.nii.gz")
    assert read_label(file).grid.matches(scan.grid)

    client.train_start("uncol", {"step_scale": 0.1})
    state = wait_for_training(client)
    assert state["status"] == "DONE", "\n".join(state["details"])
    stats = client.info()["train_stats"]["uncol"]
    assert stats["epoch"] == stats["total_epochs"]
    assert isinstance(stats["best_metric"], float)
    assert {"total_time", "start_ts", "model_version", "trust"} <= set(stats)

    # the new model on a case never labeled
    objects = client.datastore()["objects"]
    unseen = next(name for name in names if "final" not in objects[name]["labels"])
    scan = read_scan(live.studies / f"{unseen}.nii.gz")
    file, params = client.infer("uncol", unseen, {**SLICER, "save_label": True})
    found = read_label(file)
    assert found.grid.matches(scan.grid)
    assert params["label_names"] == live.labels
    told = params["uncol"]
    assert told["model_version"] == 1
    assert set(told["quality"]) >= {"dice", "interval", "band", "per_label"}
    assert set(told["uncertainty"]) >= {"mean_foreground", "voxels_high", "threshold", "bands"}
    scores = dice_per_label(
        found.array, read_label(live.truth / f"{unseen}.nii.gz").array, live.labels
    )
    assert np.mean(list(scores.values())) > 0.4  # 0.1 of the steps of a tiny student

    # its uncertainty: kept map, bands, float map, overlay, boxes
    kept = read_scan(client.download_label(unseen, "uncertainty"))
    assert kept.grid.matches(scan.grid)
    assert kept.array.min() >= 0
    assert kept.array.max() <= 1
    bands, _ = client.infer("uncol_uncertainty", unseen, dict(SLICER))
    assert set(np.unique(read_label(bands).array)) <= {0, 1, 2}
    floats = {**SLICER, "map": True, "result_extension": ".nii.gz"}
    again = read_scan(client.infer("uncol_uncertainty", unseen, floats)[0])
    np.testing.assert_allclose(again.array, kept.array, atol=1e-5)
    heads = {**floats, "map": "disagreement"}
    differ = read_scan(client.infer("uncol_uncertainty", unseen, heads)[0])
    assert differ.grid.matches(scan.grid)
    assert not np.allclose(differ.array, kept.array)
    both, params = client.infer("uncol_overlay", unseen, dict(SLICER))
    assert params["label_names"] == {
        **live.labels,
        "review_high": len(live.labels) + 1,
        "review_medium": len(live.labels) + 2,
    }
    assert read_label(both).array.max() <= len(live.labels) + 2
    boxes, params = client.infer("uncol_rois", unseen, dict(SLICER))
    assert boxes.endswith(".json")
    assert len(params["uncol"]["rois"]) <= 5

    # the pre-label is there for Next Sample, in the shape that the plug-in reads
    saved = client.datastore()["objects"][unseen]["labels"]["original"]["info"]
    assert saved["params"]["label_names"] == live.labels

    # a scan of one's own, through a session
    session = client.create_session(str(live.studies / f"{unseen}.nii.gz"))["session_id"]
    assert client.get_session(session)["image"]
    uploaded, _ = client.infer("uncol", "anything", dict(SLICER), session_id=session)
    np.testing.assert_array_equal(read_label(uploaded).array, found.array)
    client.remove_session(session)

    # the next case is another one
    assert client.next_sample("uncol", {})["id"] not in (case, *names[:2])


def test_stopping_a_training_leaves_the_served_model(live: Any, client: Any) -> None:
    before = client.info()["train_stats"]["uncol"]["model_version"]
    client.train_start("uncol", {"step_scale": 5.0})
    end = time.monotonic() + 120
    running = False
    while time.monotonic() < end and not running:
        time.sleep(1)
        stats = client.info()["train_stats"]["uncol"]
        running = "total_time" not in stats and stats["epoch"] >= 1
    assert running
    client.train_stop()
    stats = client.info()["train_stats"]["uncol"]
    assert "total_time" in stats  # else viewers show a training that never ends
    assert stats["phase"] == "stopped"
    case = client.next_sample("first", {})["id"]
    _, params = client.infer("uncol", case, dict(SLICER))
    assert params["uncol"]["model_version"] == before


def test_scoring_runs_by_itself_and_fills_reason_score_and_places(live: Any, client: Any) -> None:
    """Nobody asked for it: the server scores in the background once a version is published."""
    end = time.monotonic() + 400
    while time.monotonic() < end:
        chosen = client.next_sample("uncertainty", {})
        objects = client.datastore()["objects"]
        waiting = [n for n, o in objects.items() if "final" not in o["labels"]]
        if chosen["score"] > 0 and all("uncertainty" in objects[n]["labels"] for n in waiting):
            break
        time.sleep(3)
    assert chosen["score"] > 0
    assert "estimated Dice" in chosen["reason"]
    assert 1 <= len(chosen["rois"]) <= 5
    assert chosen["rank"] >= 1
    kept = read_scan(client.download_label(chosen["id"], "uncertainty"))
    assert kept.grid.matches(read_scan(live.studies / f"{chosen['id']}.nii.gz").grid)
    _, params = client.infer("uncol", chosen["id"], dict(SLICER))
    told = [place["center_mm"] for place in params["uncol"]["rois"]]
    assert told == [place["center_mm"] for place in chosen["rois"]]

    # asked for once it is done, it finds nothing left to do
    while requests.get(f"{live.url}/scoring/?check_if_running=true", timeout=60).status_code == 200:
        assert time.monotonic() < end
        time.sleep(2)
    reply = requests.post(f"{live.url}/scoring/uncol?run_sync=true", json={}, timeout=300)
    assert reply.status_code == 200
    assert reply.json()["scored"] == 0
    assert reply.json()["skipped"] == len(waiting)


@pytest.fixture
def widget(live: Any, slicer_plugin: Any, tmp_path: Path) -> Any:
    """The plug-in's widget, connected, without Slicer's windows."""
    made = object.__new__(slicer_plugin.MONAILabelWidget)
    made.logic = slicer_plugin.MONAILabelLogic(str(tmp_path / "tmp"), live.url, client_id="plugin")
    (tmp_path / "tmp").mkdir()
    made.tmpdir = str(tmp_path / "tmp")
    made.ui = MagicMock()
    made.ui.segmentationModelSelector.currentText = "uncol"
    made.info = made.logic.info()
    made.models = made.info["models"]
    made.file_ext = ".nii.gz"
    made._volumeNode = made._segmentNode = made.timer = MagicMock()
    for name in ("onResetScribbles", "resetSam2ROI", "updateServerSettings", "fetchInfo"):
        setattr(made, name, lambda: None)
    made.reportProgress = lambda _: None
    slicer_plugin.slicer.util.settingsValue = lambda _name, default, **_: default
    slicer_plugin.slicer.util.errorDisplay = MagicMock()
    return made


def test_the_plugin_gives_each_segment_of_a_result_its_own_voxels(
    client: Any, widget: Any, slicer_plugin: Any
) -> None:
    """Slicer gives the i-th name the value i + 1, whatever the server meant."""
    case = next(iter(client.datastore()["objects"]))
    for model in ("uncol", "uncol_uncertainty", "uncol_overlay"):
        slicer_plugin.slicer.reset_mock()
        file, params = widget.logic.infer(model, case, {})
        names = [n for n, _ in sorted(params["label_names"].items(), key=lambda item: item[1])]
        assert widget.updateSegmentationMask(file, names)
        image = slicer_plugin.sitkUtils.PushVolumeToSlicer.call_args.args[0]
        importer = slicer_plugin.slicer.modules.segmentations.logic()
        taken = importer.ImportLabelmapToSegmentationNode.call_args.args[2]
        values = set(np.unique(sitk.GetArrayFromImage(image)).tolist()) - {0}
        assert values <= {params["label_names"][name] for name in taken}
        assert [params["label_names"][name] for name in taken] == list(range(1, len(taken) + 1))
    boxes, _ = widget.logic.infer("uncol_rois", case, {})
    widget.updateSegmentationMask(boxes, [])
    slicer_plugin.slicer.util.loadMarkups.assert_called_once_with(boxes)


def halved(live: Any, case: str, folder: Path) -> str:
    """Half of a case's true label: what must be gone once the whole is submitted."""
    label = read_label(live.truth / f"{case}.nii.gz")
    array = label.array.astype(np.uint8)
    array[: array.shape[0] // 2] = 0
    write_volume(folder / "half.nii.gz", array, label.grid)
    return str(folder / "half.nii.gz")


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".seg.nrrd"])
def test_the_plugin_saves_segments_in_any_order_with_review_bands_and_background(
    live: Any, client: Any, widget: Any, slicer_plugin: Any, extension: str, tmp_path: Path
) -> None:
    objects = client.datastore()["objects"]
    case = next(name for name, one in objects.items() if "final" in one["labels"])
    client.save_label(case, halved(live, case, tmp_path), params={})
    truth = read_label(live.truth / f"{case}.nii.gz")
    first, second = live.labels
    segments = ["background", second, "review_high", first]  # as they stand in the list

    def export(_node: Any, ids: list[str], labelmap: Any, _volume: Any) -> None:
        array = np.zeros(truth.grid.shape, np.uint8)
        for value, name in enumerate(ids, start=1):
            if name in live.labels:
                array[truth.array == live.labels[name]] = value
            else:
                array[0, 0, :3] = value
        labelmap.array = array

    def save(node: Any, path: str) -> None:
        if not path.endswith(".seg.nrrd"):
            write_volume(path, node.array, truth.grid)
            return
        export(None, segments, node, None)  # then the plug-in saves the segmentation itself
        write_volume(tmp_path / "plain.nrrd", node.array, truth.grid)
        image = sitk.ReadImage(str(tmp_path / "plain.nrrd"))
        for number, name in enumerate(segments):
            words = {"ID": f"Segment_{number}", "Name": name, "LabelValue": number + 1, "Layer": 0}
            for word, value in words.items():
                image.SetMetaData(f"Segment{number}_{word}", str(value))
        sitk.WriteImage(image, path, useCompression=True)

    slicer = slicer_plugin.slicer
    slicer.modules.segmentations.logic().ExportSegmentsToLabelmapNode = export
    slicer.util.saveNode = save
    found = widget._segmentNode.GetSegmentation()
    found.GetNumberOfSegments.return_value = len(segments)
    found.GetNthSegmentID.side_effect = segments.__getitem__
    found.GetSegment.side_effect = lambda name: MagicMock(GetName=lambda: name)
    widget.current_sample, widget.file_ext = {"id": case}, extension
    widget.onSaveLabel()
    slicer.util.errorDisplay.assert_not_called()
    kept = read_label(client.download_label(case, "final")).array
    wanted = truth.array.copy()
    if extension != ".seg.nrrd":  # in a label map nobody knows what a band hides
        wanted[0, 0, :3] = IGNORE_VALUE
    np.testing.assert_array_equal(kept, wanted)


def test_the_plugin_reads_progress_of_a_running_training(
    live: Any, client: Any, widget: Any
) -> None:
    widget.updateAccuracyBar = MagicMock()
    client.train_start("uncol", {"step_scale": 2.0})
    try:
        end = time.monotonic() + 120
        while widget.ui.trainingProgressBar.setValue.call_count < 2:
            assert time.monotonic() < end
            widget.monitorTraining()
            time.sleep(1)
    finally:
        client.train_stop()
    shown = [call.args[0] for call in widget.ui.trainingProgressBar.setValue.call_args_list]
    assert all(1 <= percent <= 100 for percent in shown)
    assert all(0 <= call.args[0] <= 1 for call in widget.updateAccuracyBar.call_args_list)
    widget.monitorTraining()  # stopped: the bar is full, the buttons are free again
    assert widget.ui.trainingProgressBar.setValue.call_args.args == (100,)
    widget.ui.trainingButton.setEnabled.assert_called_with(True)
