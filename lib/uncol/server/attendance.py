"""When did somebody last work with the server?"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
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
        self._requests = 0

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Somebody works until the request is over."""
        with self._guard:
            self._requests += 1
        try:
            yield
        finally:
            with self._guard:
                self._requests -= 1
                self._last = time.monotonic()

    def idle_s(self) -> float:
        """Return the seconds since somebody last worked; 0 while somebody does."""
        with self._guard:
            return 0.0 if self._requests else time.monotonic() - self._last


class Attending:
    """ASGI middleware: notes each request, except those that only look how far something is."""

    def __init__(self, app: ASGIApp, attendance: Attendance) -> None:
        """Serve an application."""
        self.app = app
        self._attendance = attendance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or _only_looks(scope):
            await self.app(scope, receive, send)
            return
        with self._attendance.request():
            await self.app(scope, receive, send)


def _only_looks(scope: Scope) -> bool:
    path: str = scope["path"]
    return scope["method"] in ("GET", "HEAD", "OPTIONS") and (
        path == "/" or path.startswith(POLLED)
    )


ATTENDANCE = Attendance()  # of this process
