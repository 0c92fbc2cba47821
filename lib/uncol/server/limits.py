"""What the server may take: uploads of bounded size, and memory that it gives back."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

from fastapi import HTTPException
from fastapi.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIB = 2**20
M_ARENA_MAX = -8  # in glibc's malloc.h
HEAPS = 2


def share_heaps() -> None:
    """Let all threads share two heaps.

    glibc gives each thread that answers requests its own heap, and keeps freed memory in it: a
    thread that is rarely used again would hold its last scan forever.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(M_ARENA_MAX, HEAPS)


class UploadLimit:
    """ASGI middleware that answers 413 to bodies over a limit, whether they announce it or not."""

    def __init__(self, app: ASGIApp, *, limit_mb: int) -> None:
        """Guard an application.

        Args:
            app: the application.
            limit_mb: most MiB of a request's body.
        """
        self.app = app
        self.limit = limit_mb * MIB
        self.text = (
            f"The upload is larger than {limit_mb} MiB, this server's limit. Submit it compressed, "
            "or start the server with a larger --conf max_upload_mb."
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it is too large."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self.limit:
            await JSONResponse({"detail": self.text}, 413)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise HTTPException(413, self.text)
            return message

        await self.app(scope, counted, send)
