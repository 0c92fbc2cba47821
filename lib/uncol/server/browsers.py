"""Web pages of others keep out: which hosts and origins are answered, and headers on pages."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from secure import (
    ContentSecurityPolicy,
    CrossOriginOpenerPolicy,
    ReferrerPolicy,
    Secure,
    XContentTypeOptions,
    XFrameOptions,
)
from starlette.datastructures import Headers

from uncol.server.answers import Answer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

READING = ("GET", "HEAD", "OPTIONS")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Allowed:
    """Who may ask from a browser.

    Attributes:
        hosts: names by which this server is known, in lower case; any IP address is allowed, since
            no foreign page can have one as its name.
        origins: addresses of other web applications, `https://viewer.example`.
    """

    hosts: Collection[str]
    origins: Collection[str] = ()

    def host(self, name: str) -> bool:
        """Say whether a request for this name (of the `Host` header) is answered."""
        try:
            host = urlsplit(f"//{name}").hostname or ""
        except ValueError:
            return False
        if host.lower() in self.hosts or host.lower() in LOOPBACK:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def origin(self, origin: str, headers: Headers, scheme: str) -> bool:
        """Say whether a page from an origin is this server's own, or a known one."""
        own = (f"{scheme}://{headers.get('host', '')}", f"https://{headers.get('host', '')}")
        return origin in self.origins or origin.lower() in (one.lower() for one in own)


class SameOrigin:
    """ASGI middleware: a foreign page in somebody's browser neither reads nor changes anything.

    Programs send neither `Origin` nor `Sec-Fetch-Site`; browsers always do where it matters.
    """

    def __init__(self, app: ASGIApp, *, allowed: Allowed) -> None:
        """Guard an application."""
        self.app = app
        self.allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal:
            logger.warning("Refused %s %s: %s", scope["method"], scope["path"], refusal)
            await Answer({"detail": refusal}, 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> str:
        host = headers.get("host", "")
        if not self.allowed.host(host):
            return (
                f"This server is not known as {host[:100]!r}. Start it with --conf allowed_hosts "
                "and that name, if it is right."
            )
        origin = headers.get("origin")
        if origin is not None:
            known = self.allowed.origin(origin, headers, scope["scheme"])
        else:
            site = headers.get("sec-fetch-site", "none")
            known = site in ("same-origin", "none") or scope["method"] in READING
        if known:
            return ""
        return (
            f"A web page from {(origin or 'elsewhere')[:100]!r} may not use this server. Start it "
            "with --conf allowed_origins and that address, if it is right."
        )


def page_headers() -> Secure:
    """Return what browsers are told to forbid on every page.

    Scripts are not restricted: OHIF compiles code and starts workers of its own.
    """
    policy = ContentSecurityPolicy().object_src("'none'").base_uri("'self'")
    return Secure(
        csp=policy.frame_ancestors("'self'"),
        coop=CrossOriginOpenerPolicy().same_origin(),
        referrer=ReferrerPolicy().same_origin(),
        xcto=XContentTypeOptions(),
        xfo=XFrameOptions().sameorigin(),
    )
