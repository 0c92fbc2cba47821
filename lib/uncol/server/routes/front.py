"""`/`: documentation of the interface, the icon, MONAI Label's static files, and reload."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, Response

from uncol.server.answers import Answer
from uncol.server.routes.parts import Parts
from uncol.server.viewers.ohif import STATIC

SCHEMA_AT = "/openapi.json"


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(include_in_schema=False)
    title = "UnCoL - APIs"

    @router.get("/")
    async def interface(request: Request) -> HTMLResponse:
        return get_swagger_ui_html(openapi_url=_below_root(request), title=title)

    @router.get("/docs")
    async def reference(request: Request) -> HTMLResponse:
        return get_redoc_html(openapi_url=_below_root(request), title=title)

    @router.get("/favicon.ico")
    async def icon() -> Response:
        return FileResponse(STATIC / "favicon.ico", media_type="image/x-icon")

    @router.post("/reload", **parts.rule("admin", "Take up files that were added by hand"))
    def reload() -> Answer:
        pool = parts.desk.host.pool
        if pool is not None:
            pool.refresh()
        return Answer({})

    return router


def _below_root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/") + SCHEMA_AT
