"""The OHIF that MONAI Label's wheel ships: its files, and its scripts as they are served.

tests/integration/test_mends.py fails once a line to correct is no longer there.
"""

from __future__ import annotations

import functools
from pathlib import Path

from monailabel import endpoints

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


STATIC = Path(endpoints.__file__).parent / "static"
# every file that may be sent, by its address
OHIF = {
    str(path.relative_to(STATIC / "ohif")): path
    for path in (STATIC / "ohif").rglob("*")
    if path.is_file()
}


@functools.cache
def mended(path: Path) -> str | None:
    """Return a script with its mistakes mended; None if there is nothing to mend in a file."""
    if path.suffix != ".js":
        return None
    text = path.read_text(encoding="utf-8")
    wrong = [before for before in OHIF_MENDS if before in text]
    for before in wrong:
        text = text.replace(before, OHIF_MENDS[before])
    return text if wrong else None
