"""`/ohif/`: the viewer that MONAI Label's wheel ships, mended where it needs it."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from monailabel.utils.others.generic import get_mime_type

from uncol.server.routes.parts import Parts
from uncol.server.viewers.ohif import OHIF, mended


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/ohif", tags=["Others"])

    @router.get("/{path:path}", **parts.rule("user", "OHIF viewer"), include_in_schema=False)
    def page(path: str) -> Response:
        file = OHIF.get(path)
        if file is None:  # one of its own addresses: its page finds out by itself
            file = OHIF["index.html"]
        script = mended(file)
        if script is not None:
            return Response(script, media_type="text/javascript")
        return FileResponse(file, media_type=get_mime_type(str(file)))

    return router
