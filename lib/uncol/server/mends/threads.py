"""Run endpoints in worker threads."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import request_response


def unblock(api: FastAPI) -> None:
    """Run endpoints in worker threads.

    Defect: all endpoints are `async def` around blocking code, so one infer stops every other
    request, progress and stop of a training included.
    """
    for route in _api_routes(api.routes):
        # the DICOM proxy awaits the request's body, which works only on the event loop
        proxied = route.endpoint.__module__ == "monailabel.endpoints.proxy"
        if not proxied and not getattr(route.endpoint, "in_thread", False):
            route.endpoint = route.dependant.call = _in_thread(route.endpoint)
            route.app = request_response(route.get_route_handler())


def _api_routes(routes: Iterable[Any]) -> Iterator[APIRoute]:
    """Return all API routes; newer FastAPI keeps included routers whole and reads them later."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from _api_routes(route.original_router.routes)


def _in_thread(endpoint: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return the endpoint, run to its end in a worker thread. It awaits nothing itself."""

    def run(*args: Any, **kwargs: Any) -> Any:
        coroutine: Any = endpoint(*args, **kwargs)
        try:
            coroutine.send(None)
        except StopIteration as finished:
            return finished.value
        coroutine.close()
        raise RuntimeError(f"{endpoint.__name__} awaits something; run it on the event loop")

    @functools.wraps(endpoint)
    async def threaded(*args: Any, **kwargs: Any) -> Any:
        return await anyio.to_thread.run_sync(functools.partial(run, *args, **kwargs))

    threaded.in_thread = True  # type: ignore[attr-defined]
    return threaded
