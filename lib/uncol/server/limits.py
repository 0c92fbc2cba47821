"""What the server may take: uploads of bounded size, and memory that it gives back."""

from __future__ import annotations

import asyncio
import ctypes
import sys
from typing import TYPE_CHECKING

from fastapi import HTTPException

from uncol.server.answers import Answer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIB = 2**20
M_ARENA_MAX = -8  # in glibc's malloc.h
HEAPS = 2
NEXT_PART_WITHIN_S = 60.0
TOO_MUCH = "The server is busy with other uploads. Send this one again in a moment."


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
    """ASGI middleware that bounds request bodies: each of them, all together, and in time."""

    def __init__(self, app: ASGIApp, *, limit_mb: int) -> None:
        """Guard an application.

        Args:
            app: the application.
            limit_mb: most MiB of a request's body; all that arrive at once may take twice that.
        """
        self.app = app
        self.limit = limit_mb * MIB
        self.together = 2 * self.limit
        self._arriving = 0
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
            await Answer({"detail": self.text}, 413)(scope, receive, send)
            return
        body = _Body(self, receive)
        try:
            await self.app(scope, body.receive, send)
        finally:
            self._arriving -= body.received

    def take(self, size: int, received: int) -> None:
        """Count bytes that arrived.

        Raises:
            HTTPException: 413, the body is too large; 503, too much arrives at once.
        """
        self._arriving += size
        if received > self.limit:
            raise HTTPException(413, self.text)
        if self._arriving > self.together:
            raise HTTPException(503, TOO_MUCH, {"Retry-After": "10"})


class _Body:
    """A request's body as it arrives."""

    def __init__(self, limit: UploadLimit, receive: Receive) -> None:
        self._limit = limit
        self._receive = receive
        self._complete = False
        self.received = 0

    async def receive(self) -> Message:
        if self._complete:  # what comes now is the client's leaving, whenever that is
            return await self._receive()
        try:
            async with asyncio.timeout(NEXT_PART_WITHIN_S):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "The upload stopped arriving.") from None
        size = len(message.get("body", b""))
        self.received += size
        self._complete = not message.get("more_body", False)
        self._limit.take(size, self.received)
        return message
