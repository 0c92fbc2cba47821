"""The accuracy that is shown: of the served version, on cases that did not train what is judged."""

from __future__ import annotations

from uncol.calibration.evidence import Evidence
from uncol.errors import WeightsError
from uncol.storage.ledger import Ledger
from uncol.versions.gate import accuracy
from uncol.versions.loaded import read_calibration
from uncol.versions.manifest import Accuracy
from uncol.versions.store import ModelStore


def shown_accuracy(store: ModelStore) -> Accuracy | None:
    """Return the served version's accuracy; None before anything could be measured.

    On held-out cases where there are any. With fewer labels it is cross-validated, once the
    background calibration has done so.
    """
    version = store.current()
    if version is None:
        return None
    try:
        manifest = store.manifest(version)
    except WeightsError:
        return None
    if manifest.accuracy is not None:
        return manifest.accuracy
    if read_calibration(store, version).source != "cross_fit":
        return None
    evidence = Ledger(store.folder.notes(version).evidence, Evidence).read()
    dice = {
        name: {label: float("nan") if v is None else v for label, v in one.dice.items()}
        for name, one in evidence.items()
    }
    return accuracy(dice, source="cross_fit")
