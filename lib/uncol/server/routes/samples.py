"""`/activelearning/`: the next case to annotate."""

from __future__ import annotations

import ipaddress
import logging
import time
from typing import Any

from fastapi import APIRouter, Request

from uncol.errors import UncolError
from uncol.server.access import User
from uncol.server.answers import Answer
from uncol.server.door import DoorRoute
from uncol.server.routes.parts import Parts

logger = logging.getLogger(__name__)


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/activelearning", tags=["ActiveLearning"], route_class=DoorRoute)

    someone = parts.someone("user")

    @router.post(
        "/{strategy}", **parts.rule("user", "Run Active Learning strategy to get next sample")
    )
    def next_sample(
        strategy: str,
        request: Request,
        params: dict[str, Any] | None = None,
        user: User = someone,
    ) -> Answer:
        sample = parts.desk.next_case(strategy, params or {})
        if not sample:
            return Answer({})
        store = parts.desk.host.datastore()
        client = (params or {}).get("client_id") or user.name
        try:
            served = {strategy: {"ts": int(time.time()), "client_id": client}}
            store.update_image_info(sample["id"], {"strategy": served})
        except (UncolError, OSError) as error:  # a read-only folder can be looked at
            logger.warning("Who works on case '%s' is not kept: %s", sample["id"], error)
        answer = {**store.get_image_info(sample["id"]), **sample}
        if parts.access.realm is None and not _same_machine(request):
            answer.pop("path", None)  # of nobody known, and elsewhere it means nothing
        return Answer(answer)

    return router


def _same_machine(request: Request) -> bool:
    """Say whether the client reads the server's files itself; Slicer then downloads nothing."""
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
