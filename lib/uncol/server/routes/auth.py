"""`/auth/`: whether a login is needed, and tokens for those who cannot ask the realm themselves."""

from __future__ import annotations

import logging
from typing import Annotated

import requests
from fastapi import APIRouter, Depends, HTTPException
from fastapi.security import OAuth2PasswordRequestForm
from monailabel.config import settings as server_settings
from pydantic import BaseModel, ValidationError

from uncol.errors import RealmError
from uncol.server.access import NO_ANSWER, User, bearer
from uncol.server.answers import Answer
from uncol.server.routes.parts import Parts

logger = logging.getLogger(__name__)

ANSWER_WITHIN_S = 10.0


class Token(BaseModel):
    """What the realm gives for a password."""

    access_token: str
    token_type: str


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/auth", tags=["Auth"])
    realm = parts.access.realm

    @router.get("/", summary="Check If Auth is Enabled")
    async def enabled() -> Answer:
        return Answer(
            {
                "enabled": realm is not None,
                "client_id": server_settings.MONAI_LABEL_AUTH_CLIENT_ID,
                "realm": server_settings.MONAI_LABEL_AUTH_REALM_URI,
            }
        )

    @router.post("/token", summary="Fetch new access code/token")
    def token(form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> Answer:
        if realm is None:
            return Answer({"access_token": None, "token_type": None})
        fields = {
            "client_id": server_settings.MONAI_LABEL_AUTH_CLIENT_ID,
            "username": form.username,
            "password": form.password,
            "grant_type": "password",
        }
        try:
            reply = requests.post(
                realm.endpoint(), data=fields, timeout=ANSWER_WITHIN_S, allow_redirects=False
            )
            if reply.status_code in (400, 401):
                raise HTTPException(401, "Unknown user name or wrong password.")
            reply.raise_for_status()
            given = Token.model_validate_json(reply.content)
        except (requests.RequestException, ValidationError, KeyError) as error:
            logger.warning("The realm gave no token: %s", error)
            raise RealmError(NO_ANSWER) from error
        return Answer(given.model_dump())

    @router.get("/token/valid", summary="Check If current token is Valid")
    async def valid(token: Annotated[str | None, Depends(bearer)]) -> Answer:
        user: User = await parts.access.user(token)
        return Answer(
            {
                "username": user.name,
                "email": user.email,
                "name": user.full_name,
                "roles": sorted(user.roles),
            }
        )

    return router
