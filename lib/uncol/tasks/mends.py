"""Mends of MONAI Label 0.8.5's server that users of this app would meet as ours.

Each names the defect; tests/integration/test_mends.py holds a test that fails here once MONAI
Label mends it itself, so that the mend can go.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import jwt
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from monailabel.endpoints import train as train_endpoint
from monailabel.endpoints.user import auth
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelException,
)
from starlette.routing import request_response

from uncol.errors import UncolError

if TYPE_CHECKING:
    from uncol.tasks.app import UncolApp

logger = logging.getLogger(__name__)


def mend_server(app: UncolApp) -> None:
    """Apply all mends to the running server."""
    # the module builds the FastAPI application; importing it in a child would build another
    from monailabel.app import app as api  # noqa: PLC0415

    answer_errors(api)
    unblock(api)
    check_before_training(app)
    check_tokens()


def answer_errors(api: FastAPI) -> None:
    """Answer errors with their message.

    Defect: every exception of a task becomes a bare "Internal Server Error".
    """

    async def ours(_request: Request, error: Exception) -> JSONResponse:
        status = error.http_status if isinstance(error, UncolError) else 500
        return JSONResponse({"detail": str(error)}, status_code=status)

    async def theirs(_request: Request, error: Exception) -> JSONResponse:
        missing = isinstance(error, ImageNotFoundException | LabelNotFoundException)
        text = getattr(error, "msg", str(error))
        return JSONResponse({"detail": text}, status_code=404 if missing else 500)

    api.add_exception_handler(UncolError, ours)
    api.add_exception_handler(MONAILabelException, theirs)
    api.middleware_stack = api.build_middleware_stack()  # it was built when start-up began


def unblock(api: FastAPI) -> None:
    """Run endpoints in worker threads.

    Defect: all endpoints are `async def` around blocking code, so one infer stops every other
    request, progress and stop of a training included.
    """
    for route in _api_routes(api.routes):
        # the DICOM proxy awaits the request's body, which only the event loop can
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


def check_before_training(app: UncolApp) -> None:
    """Refuse impossible trainings in the answer to the request.

    Defect: they are accepted, and fail minutes later in a child's log.
    """
    run_model = train_endpoint.run_model
    run_all = train_endpoint.run

    @functools.wraps(run_model)
    def checked_model(model: str, params: dict[str, Any] | None = None, **options: Any) -> Any:
        app.check_training(model, params or {})
        return run_model(model, params, **options)

    @functools.wraps(run_all)
    def checked_all(params: dict[str, Any] | None = None, run_sync: bool | None = False) -> Any:
        for model in app.info()["trainers"]:
            app.check_training(model, (params or {}).get(model, {}))
        return run_all(params, run_sync)

    train_endpoint.run_model = lambda model, params, run_sync, enqueue: checked_model(
        model, params, run_sync=run_sync, enqueue=enqueue
    )
    train_endpoint.run = checked_all


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
