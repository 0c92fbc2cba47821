"""Places as a 3D Slicer Markups file with one ROI node each (schema 1.0.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)
IDENTITY = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]


def markups(rois: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the file's content.

    MONAI Label's own writer mirrors every box and numbers no names, so it is not used.

    Args:
        rois: places with `center_mm` and `size_mm` in LPS, `label` and `slice`.
    """
    names = [
        f"{rank}: {roi['label']}, slice {roi['slice'] + 1}"
        for rank, roi in enumerate(rois, start=1)
    ]
    return {
        "@schema": SCHEMA,
        "markups": [
            {
                "type": "ROI",
                "coordinateSystem": "LPS",
                "coordinateUnits": "mm",
                "locked": False,
                "labelFormat": "%N-%d",
                "name": name,
                "roiType": "Box",
                "center": roi["center_mm"],
                "orientation": IDENTITY,
                "size": roi["size_mm"],
                "insideOut": False,
                "controlPoints": [
                    {
                        "id": "1",
                        "label": name,  # MONAI Label's plug-in renames the box, not this
                        "position": roi["center_mm"],
                        "orientation": IDENTITY,
                        "selected": True,
                        "locked": False,
                        "visibility": True,
                        "positionStatus": "defined",
                    }
                ],
            }
            for name, roi in zip(names, rois, strict=True)
        ],
    }
