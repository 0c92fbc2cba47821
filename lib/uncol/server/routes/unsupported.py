"""Addresses of MONAI Label that this app does not offer: each says why."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from uncol.errors import RequestError
from uncol.server.access import Role
from uncol.server.answers import Answer
from uncol.server.routes.parts import Parts

SLIDES = "Whole-slide images are not supported: uncol segments 2D and 3D scans as a whole."
MODELS = "Models are versions here: see /uncol/models/ (list, show, rollback, gc)."
REASONS: tuple[tuple[str, str, Role, str], ...] = (
    ("POST", "/infer/wsi/{model}", "user", SLIDES),
    ("POST", "/infer/wsi_v2/{model}", "user", SLIDES),
    ("GET", "/model/{model}", "admin", MODELS),
    ("GET", "/model/info/{model}", "admin", MODELS),
    ("PUT", "/model/{model}", "admin", MODELS),
    ("DELETE", "/model/{model}", "admin", MODELS),
)


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(tags=["Not offered"])
    for method, path, role, reason in REASONS:
        router.add_api_route(
            path, _refusing(reason), methods=[method], **parts.rule(role, "Not offered by this app")
        )
    return router


def _refusing(reason: str) -> Callable[[str], Answer]:
    def refuse(model: str) -> Answer:
        del model
        raise RequestError(reason)

    return refuse
