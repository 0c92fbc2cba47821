"""`/uncol/models/`: users look at versions, admins roll back and clean up."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from uncol.server.answers import Answer
from uncol.server.routes.parts import Parts
from uncol.storage.model_folder import VERSIONS_KEPT
from uncol.versions.report import list_versions, show_version

HIGHEST_VERSION = 10**9
Version = Annotated[int, Path(ge=0, le=HIGHEST_VERSION)]


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/uncol/models", tags=["UnCoL models"])
    store = parts.models

    @router.get("/", **parts.rule("user", "List published and refused versions"))
    def list_models() -> Answer:
        return Answer([line.model_dump(exclude_unset=True) for line in list_versions(store)])

    @router.get("/{version}", **parts.rule("user", "Show all of a version"))
    def show_model(version: Version) -> Answer:
        return Answer(show_version(store, version))

    @router.post("/rollback", **parts.rule("admin", "Serve an earlier version again"))
    def rollback(version: Annotated[int | None, Query(ge=0, le=HIGHEST_VERSION)] = None) -> Answer:
        return Answer({"served": store.rollback(version)})

    @router.post("/gc", **parts.rule("admin", "Delete old versions"))
    def gc(keep: Annotated[int, Query(ge=1, le=HIGHEST_VERSION)] = VERSIONS_KEPT) -> Answer:
        return Answer({"deleted": store.gc(keep)})

    return router
