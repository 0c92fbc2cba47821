"""`/info/`: what the app is and where it stands."""

from __future__ import annotations

from fastapi import APIRouter

from uncol.server.answers import Answer
from uncol.server.routes.parts import Parts


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/info", tags=["App"])

    @router.get("/", **parts.rule("user", "Get App Info"))
    def app_info() -> Answer:
        return Answer(parts.places.hide_in(parts.desk.host.info()))

    return router
