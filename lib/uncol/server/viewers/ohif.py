"""Mends of the OHIF that MONAI Label's wheel ships: its scripts are corrected when served.

tests/integration/test_mends.py fails once a line to correct is no longer there.
"""

from __future__ import annotations

import functools
from pathlib import Path

from fastapi.responses import Response
from monailabel.endpoints import ohif as ohif_endpoint

OHIF_MENDS = {
    # Export DICOM SEG forgets to say where to: "Cannot read properties of undefined"
    "await dataSource.store.dicom(naturalizedReport);": (
        "dataSource = dataSource || extensionManager.getActiveDataSource()[0];"
        "await dataSource.store.dicom(naturalizedReport);"
    ),
    # it passes the slices on in display order, but the writer expects them from the highest along
    # the normal to the lowest: in half of all series the label was mirrored
    "const segImages = imageIds.map(imageId => esm.cache.getImage(imageId));": (
        "const segImages = imageIds.map(imageId => esm.cache.getImage(imageId));"
        "const height = image => {"
        "const plane = esm.metaData.get('imagePlaneModule', image.referencedImageId);"
        "const [r, c, p] = [plane.rowCosines, plane.columnCosines, plane.imagePositionPatient];"
        "return (r[1] * c[2] - r[2] * c[1]) * p[0] + (r[2] * c[0] - r[0] * c[2]) * p[1]"
        " + (r[0] * c[1] - r[1] * c[0]) * p[2];};"
        "segImages.sort((a, b) => height(b) - height(a));"
    ),
    # parametric maps are read at a quarter of the right offset, or not at all
    "new sourcePixelData.constructor(sourcePixelData.buffer, i * sliceLength, sliceLength)": (
        "sourcePixelData.subarray(i * sliceLength, (i + 1) * sliceLength)"
    ),
}


def mend_ohif() -> None:
    """Let OHIF store what was drawn and show maps where they belong, see `OHIF_MENDS`."""
    folder = Path(ohif_endpoint.__file__).parent / "static" / "ohif"
    original = ohif_endpoint.get_ohif

    @functools.cache
    def mended(name: str) -> str | None:
        """Return the corrected script; None if there is nothing to correct."""
        text = (folder / name).read_text(encoding="utf-8")
        wrong = [before for before in OHIF_MENDS if before in text]
        for before in wrong:
            text = text.replace(before, OHIF_MENDS[before])
        return text if wrong else None

    scripts = {path.name for path in folder.glob("*.js")}

    def get_ohif(path: str) -> Response:
        text = mended(path) if path in scripts else None
        if text is not None:
            return Response(text, media_type="text/javascript")
        served: Response = original(path)
        return served

    ohif_endpoint.get_ohif = get_ohif
