"""`/proxy/dicom/`: viewers reach the PACS through this server, with its credentials."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Literal
from urllib.parse import quote

import anyio
import anyio.to_thread
import httpx
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from monailabel.config import settings as server_settings

from uncol.datastores.connect import is_address, is_google, token_of_google
from uncol.errors import BusyError, PacsError, RequestError, why
from uncol.server.access import User
from uncol.server.routes.parts import Parts
from uncol.storage.plain import shown

Op = Literal["wado", "qido", "stow", ""]
PLACES: dict[Op, str] = {
    "wado": "/wado/{path:path}",
    "qido": "/qido/{path:path}",
    "stow": "/stow/{path:path}",
    "": "/{path:path}",
}
ASKED_AT_ONCE = 8  # requests to the PACS; a hanging one must not take the server's other work along
WAITING = 64
TIMEOUT = httpx.Timeout(120, connect=10)  # a series' pixels may take a while
PASSED_ON = ("content-type", "content-length", "content-encoding", "etag", "last-modified")
UNPACKED = {"content-length", "content-encoding"}  # of a body that httpx has unpacked


class Upstream:
    """The PACS's server, asked a few things at a time; answers stream through."""

    def __init__(self, root: str) -> None:
        """Know its DICOMweb root; nothing is asked yet."""
        self._root = root
        user = server_settings.MONAI_LABEL_DICOMWEB_USERNAME
        self._login = (
            httpx.BasicAuth(user, server_settings.MONAI_LABEL_DICOMWEB_PASSWORD) if user else None
        )
        self._client: httpx.AsyncClient | None = None
        self._turns = anyio.Semaphore(ASKED_AT_ONCE)
        self._waiting = 0

    async def ask(self, request: Request, op: Op, path: str) -> Response:
        """Pass a request on; the answer streams through.

        Raises:
            PacsError: the PACS does not answer.
            BusyError: too many requests wait for it already.
        """
        asked = await self._question(request, op, path)
        async with contextlib.AsyncExitStack() as stack:
            await self._take_turn(stack)
            try:
                reply = await self._opened().send(asked, auth=self._login, stream=True)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise PacsError(f"The PACS did not answer: {why(error)}.") from error
            stack.push_async_callback(reply.aclose)
            if reply.is_redirect:
                raise PacsError(
                    "The PACS sends us to another address, which is not followed. Give its right "
                    "address as --studies."
                )
            if request.method == "POST":  # short; it must have arrived before news are taken up
                return Response(await reply.aread(), reply.status_code, _kept(reply, read=True))
            held = stack.pop_all()
        return StreamingResponse(_pieces(reply, held), reply.status_code, _kept(reply, read=False))

    async def _question(self, request: Request, op: Op, path: str) -> httpx.Request:
        """Return what the PACS is asked."""
        parts = (self._root, _prefix(op, path), _below_root(path))
        headers = _asked_with(request)
        if is_google(self._root):
            token = await anyio.to_thread.run_sync(token_of_google)
            headers["Authorization"] = f"Bearer {token}"
        try:
            return self._opened().build_request(
                request.method,
                "/".join(part for part in parts if part),
                params=list(request.query_params.multi_items()),
                headers=headers,
                content=request.stream() if request.method == "POST" else None,
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise RequestError(f"{shown(path)} is not a DICOMweb path: {why(error)}.") from error

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False)
        return self._client

    async def _take_turn(self, stack: contextlib.AsyncExitStack) -> None:
        if self._waiting >= WAITING:
            raise BusyError("The PACS is busy with many requests at once. Try again in a moment.")
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        stack.callback(self._turns.release)


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/proxy/dicom", tags=["Others"], include_in_schema=False)
    root = server_settings.MONAI_LABEL_STUDIES.strip().rstrip("/")
    upstream = Upstream(root) if is_address(root) else None

    async def passed_on(request: Request, user: User, op: Op, path: str) -> Response:
        if upstream is None:
            raise HTTPException(404, "This server's scans come from a folder, not from a PACS.")
        if request.method == "POST":
            parts.access.require(user, "annotator")
        if request.method == "GET":
            return await _unless_gone(request, upstream.ask(request, op, path))
        reply = await upstream.ask(request, op, path)
        if parts.desk.host.pool is not None:
            await anyio.to_thread.run_sync(parts.desk.host.pool.take_up_news)
        return reply

    someone = parts.someone("user")
    rule = parts.rule("user", "Ask the PACS; to store in it takes an annotator")

    def proxied(op: Op) -> Callable[..., Coroutine[Any, Any, Response]]:
        async def ask(request: Request, path: str, user: User = someone) -> Response:
            return await passed_on(request, user, op, path)

        return ask

    for op, below in PLACES.items():
        router.add_api_route(below, proxied(op), methods=["GET", "POST"], **rule)
    return router


def _below_root(path: str) -> str:
    """Return a decoded path as part of an address, below the DICOMweb root."""
    if any(part in (".", "..") for part in path.replace("\\", "/").split("/")):
        raise RequestError(f"{shown(path)} is not a DICOMweb path: it leaves the server's root.")
    return quote(path, safe="/,")


def _prefix(op: Op, path: str) -> str:
    prefixes = {
        "wado": server_settings.MONAI_LABEL_WADO_PREFIX,
        "qido": server_settings.MONAI_LABEL_QIDO_PREFIX,
        "stow": server_settings.MONAI_LABEL_STOW_PREFIX,
    }
    # some versions of OHIF ask for metadata where they search
    return prefixes.get("wado" if path.endswith("metadata") else op) or ""


def _asked_with(request: Request) -> dict[str, str]:
    """Return the headers that go on to the PACS."""
    names = {"accept"}
    if request.method == "POST":
        names.add("content-type")
        if "transfer-encoding" not in request.headers:
            names.add("content-length")  # not every PACS reads a body that comes in chunks
    headers = {name: request.headers[name] for name in names if name in request.headers}
    return {"Accept-Encoding": "identity", **headers}


def _kept(reply: httpx.Response, *, read: bool) -> dict[str, str]:
    """Return the headers that go on to the client."""
    names = set(PASSED_ON) - (UNPACKED if read else set())
    return {name: v for name, v in reply.headers.items() if name.lower() in names}


async def _pieces(reply: httpx.Response, held: contextlib.AsyncExitStack) -> AsyncIterator[bytes]:
    async with held:
        async for piece in reply.aiter_raw():
            yield piece


async def _unless_gone(request: Request, asking: Coroutine[Any, Any, Response]) -> Response:
    """Ask as long as the client waits for the answer: a hanging PACS must not keep its place."""
    answer = Response(status_code=499)  # nobody reads it
    failure: Exception | None = None
    async with anyio.create_task_group() as both:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            both.cancel_scope.cancel()

        both.start_soon(watch)
        try:
            answer = await asking
        except Exception as error:  # as it is, not as one of a group
            failure = error
        both.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return answer
