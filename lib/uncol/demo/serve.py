"""`uncol serve-pacs`: a PACS with scans and the server beside it, to try OHIF."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType

from rich.console import Console

from uncol.demo.orthanc import running_orthanc, upload
from uncol.demo.pool import BRAIN_LABELS
from uncol.demo.series import make_series_pool
from uncol.demo.server import running_server

CASES = 12
SERIES_SEED = 0
PACS_PORT = 8042  # if it is free: the mirror of a PACS belongs to its address


def serve_pacs(dicom: Path | None, labels: str | None, *, out: Path, port: int) -> None:
    """Run until Ctrl-C; what was stored is kept for the next start.

    Args:
        dicom: a folder of DICOM files; without one, brains made of the MNI152 template.
        labels: the app's labels; those of the brains if not given.
        out: the PACS's storage, the server's mirror of it, and the models.
        port: the server's port; OHIF looks for it at 8000 by itself.

    Raises:
        PacsError: Orthanc is not installed or does not come up.
        UncolError: the server does not come up.
    """
    console = Console()
    if dicom is None and not (out / "series").exists():
        console.print(f"Making {CASES} brain MR series in {out / 'series'} ...")
        make_series_pool(out / "series", out / "truth", cases=CASES, seed=SERIES_SEED)
    with running_orthanc(out / "pacs", port=PACS_PORT) as pacs:
        count = upload(pacs, dicom or out / "series")
        console.print(f"PACS with {count} images at {pacs}")
        with running_server(
            f"{pacs}/dicom-web",
            model_dir=out / "model",
            labels=labels or ",".join(BRAIN_LABELS),
            conf={"pacs_results": "scored"},  # so that OHIF shows labels and maps by itself
            port=port,
            env={"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(out / "mirror")},
        ) as url:
            console.print(f"Server at {url}; its log is {out / 'model' / 'server.log'}")
            console.print(f"[bold]OHIF: {url}/ohif/[/bold]   (Ctrl-C stops both)")
            for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(one, _stop)  # a closed terminal must not leave both running
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                console.print("Stopped.")


def _stop(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
