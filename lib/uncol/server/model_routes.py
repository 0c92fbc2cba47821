"""Versions over REST: users look at them, admins roll back and clean up."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query
from monailabel.config import RBAC_ADMIN, RBAC_USER
from monailabel.config import settings as server_settings
from monailabel.endpoints.user.auth import RBAC

from uncol.storage.model_folder import VERSIONS_KEPT
from uncol.versions.report import list_versions, show_version
from uncol.versions.store import ModelStore


def add_model_routes(api: FastAPI, store: ModelStore) -> None:
    """Offer `/uncol/models` on MONAI Label's server."""
    router = APIRouter(prefix="/uncol/models", tags=["UnCoL models"])
    user = [Depends(RBAC(server_settings.MONAI_LABEL_AUTH_ROLE_USER))]
    admin = [Depends(RBAC(server_settings.MONAI_LABEL_AUTH_ROLE_ADMIN))]

    @router.get("/", summary=f"{RBAC_USER}List published and refused versions", dependencies=user)
    def list_models() -> list[dict[str, Any]]:
        return [line.model_dump(exclude_unset=True) for line in list_versions(store)]

    @router.get("/{version}", summary=f"{RBAC_USER}Show all of a version", dependencies=user)
    def show_model(version: int) -> dict[str, Any]:
        return show_version(store, version)

    @router.post(
        "/rollback", summary=f"{RBAC_ADMIN}Serve an earlier version again", dependencies=admin
    )
    def rollback(version: int | None = None) -> dict[str, int]:
        return {"served": store.rollback(version)}

    @router.post("/gc", summary=f"{RBAC_ADMIN}Delete old versions", dependencies=admin)
    def gc(keep: Annotated[int, Query(ge=1)] = VERSIONS_KEPT) -> dict[str, list[int]]:
        return {"deleted": store.gc(keep)}

    api.include_router(router)
