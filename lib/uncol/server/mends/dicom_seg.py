"""Answer `/infer?output=dicom_seg` with our own segmentations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monailabel.endpoints import infer as infer_endpoint

from uncol.datastores.pacs import PacsDatastore
from uncol.server.host import Host
from uncol.tasks.results import write_dicom_result


def name_dicom_segments(host: Host) -> None:
    """Answer `/infer?output=dicom_seg` with our own segmentations.

    Defect: segments are named by their place among those present, so the segment after a missing
    label gets that label's name.
    """

    def segmentation(series: str, label: str, info: list[dict[str, Any]], **_: Any) -> str:
        store = host.datastore()
        return write_dicom_result(store.segmentation(Path(series).name, label, info))

    infer_endpoint.DICOMWebDatastore = PacsDatastore  # what it accepts as a DICOM store
    infer_endpoint.nifti_to_dicom_seg = segmentation
