"""`/session/`: scans that are uploaded for a while, without making cases of them."""

from __future__ import annotations

from typing import Annotated, Any, Never

from fastapi import APIRouter, File, HTTPException, Query, UploadFile
from fastapi.responses import FileResponse, Response
from monailabel.utils.others.generic import get_mime_type

from uncol.errors import RequestError
from uncol.server.answers import Answer
from uncol.server.routes.parts import Parts
from uncol.server.sessions import Session, Sessions

MISSING = "There is no such session; it may have expired."


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/session", tags=["Session"])

    @router.get("/{session_id}", **parts.rule("user", "Get Session ID"))
    def show(session_id: str, update_ts: bool = False, image: bool = False) -> Response:
        sessions = _sessions(parts)
        session = sessions.get(session_id, used=update_ts)
        if session is None:
            _missing()
        if not image:
            return Answer(_told(session))
        path = sessions.image(session)
        if not path.is_file():
            raise RequestError("This session has several files, and no single image.")
        return FileResponse(path, media_type=get_mime_type(str(path)), filename=path.name)

    @router.put("/", **parts.rule("user", "Create new session with Image"))
    def create(
        files: Annotated[list[UploadFile], File()],
        uncompress: bool = False,
        expiry: Annotated[int, Query(ge=0)] = 0,
    ) -> Answer:
        session = _sessions(parts).add(files, unpacked=uncompress, expiry=expiry)
        return Answer({"session_id": session.name, "session_info": _told(session)})

    @router.delete("/{session_id}", **parts.rule("user", "Delete Session"))
    def remove(session_id: str) -> Answer:
        session = _sessions(parts).remove(session_id)
        if session is None:
            _missing()
        return Answer(_told(session))

    return router


def _sessions(parts: Parts) -> Sessions:
    if parts.sessions is None:
        raise HTTPException(406, "Session Feature is Not Enabled")
    return parts.sessions


def _told(session: Session) -> dict[str, Any]:
    """Return what clients see; a session's folder is the server's matter."""
    return {**session.model_dump(), "meta": {}}


def _missing() -> Never:
    raise HTTPException(404, MISSING)
