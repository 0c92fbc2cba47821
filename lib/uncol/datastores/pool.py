"""The cases of any datastore, as the app works with them."""

from __future__ import annotations

import logging
from pathlib import Path

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from uncol.data.cases import Case
from uncol.data.labels import names_and_indices
from uncol.datastores.studies import UncolDatastore
from uncol.errors import UncolError

logger = logging.getLogger(__name__)


def case_of(store: Datastore, name: str) -> Case:
    """Return a case of any datastore, with its submitted label if it has one."""
    ours = store if isinstance(store, UncolDatastore) else None
    image = Path(store.get_image_uri(name))
    stamp = ours.stamp_of(name) if ours else ""
    patient = ours.patient_of(name) if ours else ""
    label = store.get_label_by_image_id(name, DefaultLabelTag.FINAL)
    if not label or (ours is not None and not ours.counts(name)):
        return Case(name, image, stamp=stamp, patient=patient)
    info = store.get_label_info(label, DefaultLabelTag.FINAL).get("label_info", [])
    listed = [entry for entry in info if "idx" in entry]
    segments = dict(zip(*names_and_indices(listed, name), strict=True))
    path = Path(store.get_label_uri(label, DefaultLabelTag.FINAL))
    return Case(name, image, path, segments, stamp=stamp, patient=patient)


def cases_of(store: Datastore) -> list[Case]:
    """Return all cases of a datastore; one whose scan cannot be fetched is logged and left out."""
    cases = []
    for name in store.list_images():
        try:
            cases.append(case_of(store, name))
        except UncolError as error:
            logger.warning("Left out: %s", error)
        except Exception:  # one odd scan must not hold up all others
            logger.exception("Left out: '%s'", name)
    return cases


def pool_of(datastore: Datastore) -> tuple[set[str], set[str]]:
    """Return the names of the cases without and with a submitted label."""
    if isinstance(datastore, UncolDatastore):  # in one go: a large pool is asked for often
        names = set(datastore.list_images())
        labeled = {name for name in names if datastore.counts(name)}
        return names - labeled, labeled
    return set(datastore.get_unlabeled_images()), set(datastore.get_labeled_images())
