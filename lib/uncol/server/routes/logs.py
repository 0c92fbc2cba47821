"""`/logs/`: the end of the server's log, for admins."""

from __future__ import annotations

import html as escaping
import shutil
import subprocess
from collections import deque
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from monailabel.config import settings as server_settings

from uncol.server.routes.parts import Parts

MOST_LINES = 100_000
WITHIN_S = 20


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/logs", tags=["Others"])

    @router.get("/", **parts.rule("admin", "Get Logs"))
    def logs(
        lines: Annotated[int, Query(ge=-1, le=MOST_LINES)] = 300,
        html: bool = True,
        text: bool = False,
        refresh: Annotated[int, Query(ge=0, le=3600)] = 0,
    ) -> Response:
        path = Path(server_settings.MONAI_LABEL_APP_DIR) / "logs" / "app.log"
        if not path.is_file():
            raise HTTPException(404, "There is no log file.")
        if lines <= 0:
            return FileResponse(path, media_type="text/plain")
        with path.open(encoding="utf-8", errors="replace") as stream:
            shown = "".join(deque(stream, lines))
        if text or not html:
            return PlainTextResponse(shown)
        again = f'<meta http-equiv="refresh" content="{max(refresh, 3)}">' if refresh else ""
        return HTMLResponse(
            f"<!doctype html><title>Log</title>{again}<pre>{escaping.escape(shown)}"
        )

    @router.get("/gpu", **parts.rule("admin", "Get GPU Info (nvidia-smi)"))
    def gpu() -> Response:
        program = shutil.which("nvidia-smi")
        if program is None:
            return PlainTextResponse("This machine has no NVIDIA driver.")
        try:
            done = subprocess.run([program], capture_output=True, timeout=WITHIN_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            raise HTTPException(503, "nvidia-smi does not answer.") from None
        return PlainTextResponse(done.stdout.decode(errors="replace"))

    return router
