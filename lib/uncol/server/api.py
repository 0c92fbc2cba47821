"""The server's web application: routes, and what every request passes on its way to them."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from secure.middleware import SecureASGIMiddleware
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from uncol import __version__
from uncol.server.answers import Answer
from uncol.server.attendance import ATTENDANCE, Attending
from uncol.server.browsers import Allowed, SameOrigin, page_headers
from uncol.server.door import RequestFolders
from uncol.server.errors import UnexpectedErrors, answer_errors
from uncol.server.limits import UploadLimit
from uncol.server.routes import GROUPS
from uncol.server.routes.parts import Parts
from uncol.server.viewers.ohif import STATIC


def make_api(parts: Parts, *, allowed: Allowed, max_upload_mb: int) -> FastAPI:
    """Return the application.

    Args:
        parts: what routes are made of.
        allowed: who may ask from a browser.
        max_upload_mb: most MiB of one upload.
    """
    api = FastAPI(
        title="UnCoL",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        default_response_class=Answer,
        middleware=[
            Middleware(SecureASGIMiddleware, secure=page_headers()),
            Middleware(UnexpectedErrors),
            Middleware(SameOrigin, allowed=allowed),
            Middleware(
                CORSMiddleware,
                allow_origins=list(allowed.origins),
                allow_credentials=True,
                allow_methods=["*"],
                allow_headers=["*"],
            ),
            Middleware(Attending, attendance=ATTENDANCE),
            Middleware(RequestFolders),
            Middleware(UploadLimit, limit_mb=max_upload_mb),
        ],
    )
    for make_router in GROUPS:
        api.include_router(make_router(parts))
    api.mount("/static", StaticFiles(directory=STATIC), name="static")
    answer_errors(api, parts.places)
    return api
