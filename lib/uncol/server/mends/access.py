"""Let valid tokens in, and nobody without the role."""

from __future__ import annotations

from typing import Any

import jwt
from fastapi import Depends, FastAPI
from monailabel.config import settings as server_settings
from monailabel.endpoints.user import auth


def check_tokens() -> None:
    """Let valid tokens in.

    Defect: `jwt.decode` is called without `algorithms`, which PyJWT 2 requires, so every token is
    refused.
    """
    auth.jwt = _JwtWithAlgorithms()


class _JwtWithAlgorithms:
    """PyJWT with the algorithm that OIDC realms sign with."""

    @staticmethod
    def decode(token: str, key: Any, **options: Any) -> Any:
        """Decode and verify a token."""
        return jwt.decode(token, key, algorithms=["RS256"], **options)


def guard_reload(api: FastAPI) -> None:
    """Require the admin role to reload the app.

    Defect: `POST /reload` is open to everybody, even where every other request needs a token.
    """
    old = [route for route in api.routes if getattr(route, "path", "") == "/reload"]
    for route in old:
        api.routes.remove(route)
    admin = Depends(auth.RBAC(server_settings.MONAI_LABEL_AUTH_ROLE_ADMIN))
    for route in old:
        api.add_api_route(
            "/reload",
            route.endpoint,  # type: ignore[attr-defined]
            methods=["POST"],
            dependencies=[admin],
            include_in_schema=False,
        )
