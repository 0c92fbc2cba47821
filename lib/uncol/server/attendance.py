"""When did somebody last work with the server?"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# what viewers and monitors ask again and again, whether or not anybody sits there
POLLED = ("/info", "/train", "/scoring", "/batch", "/logs", "/activelearning", "/static")


class Attendance:
    """The time of the last request that a person's work causes."""

    def __init__(self) -> None:
        """Begin now: whoever starts a server is about to use it."""
        self._guard = threading.Lock()
        self._last = time.monotonic()

    def note(self) -> None:
        """Somebody works."""
        with self._guard:
            self._last = time.monotonic()

    def idle_s(self) -> float:
        """Return the seconds since somebody last worked."""
        with self._guard:
            return time.monotonic() - self._last


class Attending:
    """ASGI middleware: notes each request, except those that only look how far something is."""

    def __init__(self, app: ASGIApp, attendance: Attendance) -> None:
        """Serve an application."""
        self.app = app
        self._attendance = attendance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and not _only_looks(scope):
            self._attendance.note()
        await self.app(scope, receive, send)


def _only_looks(scope: Scope) -> bool:
    path: str = scope["path"]
    return scope["method"] in ("GET", "HEAD", "OPTIONS") and (
        path == "/" or path.startswith(POLLED)
    )


ATTENDANCE = Attendance()  # of this process
