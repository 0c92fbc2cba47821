"""Places as a 3D Slicer Markups file with one ROI node each (schema 1.0.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uncol.data.boxes import PlaceMm

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)
IDENTITY = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]


def markups(places: Sequence[PlaceMm]) -> dict[str, Any]:
    """Return the file's content.

    MONAI Label's own writer is not used: it mirrors every box and does not number the names.

    Args:
        places: the places.
    """
    names = [
        f"{rank}: {place.label}, slice {place.slice + 1}"
        for rank, place in enumerate(places, start=1)
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
                "center": list(place.center_mm),
                "orientation": IDENTITY,
                "size": list(place.size_mm),
                "insideOut": False,
                "controlPoints": [
                    {
                        "id": "1",
                        "label": name,  # MONAI Label's plug-in renames the box, not this
                        "position": list(place.center_mm),
                        "orientation": IDENTITY,
                        "selected": True,
                        "locked": False,
                        "visibility": True,
                        "positionStatus": "defined",
                    }
                ],
            }
            for name, place in zip(names, places, strict=True)
        ],
    }
