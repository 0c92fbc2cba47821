"""Mends of MONAI Label 0.8.5's server that users of this app would meet as ours.

Each names the defect; tests/integration/test_mends.py holds a test that fails here once MONAI
Label mends it itself, so that the mend can go.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio.to_thread
import jwt
import requests
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from monailabel.config import settings as server_settings
from monailabel.endpoints import datastore as datastore_endpoint
from monailabel.endpoints import infer as infer_endpoint
from monailabel.endpoints import proxy as proxy_endpoint
from monailabel.endpoints import train as train_endpoint
from monailabel.endpoints.user import auth
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelException,
)
from starlette.middleware import Middleware
from starlette.routing import request_response

from uncol.datastores.pacs import PacsDatastore
from uncol.errors import PacsError, RequestError, UncolError
from uncol.server.limits import UploadLimit, share_heaps
from uncol.server.model_routes import add_model_routes
from uncol.server.viewers.ohif import mend_ohif
from uncol.tasks.pending import refuse_second
from uncol.tasks.results import write_dicom_result

if TYPE_CHECKING:
    from uncol.server.app import UncolApp

logger = logging.getLogger(__name__)

PROXY_TIMEOUT_S = 120  # a series' pixels may take a while


def mend_server(app: UncolApp) -> None:
    """Apply all mends to the running server."""
    # the module builds the FastAPI application; importing it in a child would build another
    from monailabel.app import app as api  # noqa: PLC0415

    answer_errors(api)
    unblock(api)
    manage_training(app)
    check_tokens()
    guard_reload(api)
    forward_queries(app)
    name_dicom_segments(app)
    name_annotators()
    check_infer_params()
    mend_ohif()
    add_model_routes(api, app.models)
    share_heaps()
    api.user_middleware.insert(0, Middleware(UploadLimit, limit_mb=app.uncol.max_upload_mb))
    api.middleware_stack = api.build_middleware_stack()  # it was built when start-up began


def answer_errors(api: FastAPI) -> None:
    """Answer errors with their message.

    Defect: every exception becomes a bare "Internal Server Error".
    """

    async def ours(_request: Request, error: Exception) -> JSONResponse:
        status = error.http_status if isinstance(error, UncolError) else 500
        return JSONResponse({"detail": str(error)}, status_code=status)

    async def theirs(_request: Request, error: Exception) -> JSONResponse:
        missing = isinstance(error, ImageNotFoundException | LabelNotFoundException)
        text = getattr(error, "msg", str(error))
        return JSONResponse({"detail": text}, status_code=404 if missing else 500)

    async def realms(_request: Request, error: Exception) -> JSONResponse:
        answer = error.response if isinstance(error, requests.HTTPError) else None
        if answer is not None and answer.status_code in (400, 401):
            text = "The realm does not know this name or password."
            return JSONResponse({"detail": text}, status_code=401)
        return JSONResponse({"detail": f"Another server failed: {error}"}, status_code=502)

    async def not_json(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": f"A parameter is not valid JSON: {error}."}, 400)

    async def unexpected(_request: Request, error: Exception) -> JSONResponse:
        logger.error("Unexpected", exc_info=error)
        text = f"Unexpected {type(error).__name__}: {error}. The server's log tells more."
        return JSONResponse({"detail": text}, status_code=500)

    api.add_exception_handler(UncolError, ours)
    api.add_exception_handler(json.JSONDecodeError, not_json)
    api.add_exception_handler(Exception, unexpected)
    api.add_exception_handler(requests.RequestException, realms)
    api.add_exception_handler(MONAILabelException, theirs)


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


def manage_training(app: UncolApp) -> None:
    """Refuse impossible and second trainings in the answer; remember the accepted one.

    Defects: impossible ones are accepted, and fail minutes later in a child's log; of two quick
    presses both are queued; a training is forgotten when the server dies.
    """
    run_model, run_all, stop = train_endpoint.run_model, train_endpoint.run, train_endpoint.stop

    def accept(model: str, params: dict[str, Any] | None) -> None:
        refuse_second()
        app.check_training(model, params or {})
        app.pending.note(params or {})

    @functools.wraps(run_model)
    def one(model: str, params: dict[str, Any] | None, *options: Any) -> Any:
        with app.pending.accepting:
            accept(model, params)
            return run_model(model, params, *options)

    @functools.wraps(run_all)
    def all_of_them(params: dict[str, Any] | None = None, *options: Any) -> Any:
        with app.pending.accepting:
            for model in app.info()["trainers"]:
                accept(model, (params or {}).get(model, {}))
            return run_all(params, *options)

    @functools.wraps(stop)
    def stopped() -> Any:
        app.pending.over()
        return stop()

    train_endpoint.run_model, train_endpoint.run, train_endpoint.stop = one, all_of_them, stopped


def name_annotators() -> None:
    """Keep with each label who submitted it.

    Defect: the user's name is logged and dropped.
    """
    save = datastore_endpoint.save_label

    @functools.wraps(save)
    def named(
        background_tasks: Any, image: str, params: str, tag: str, label: Any, user: str | None
    ) -> Any:
        info = json.dumps({**_json_object(params), "user": user})
        return save(background_tasks, image, info, tag, label, user)

    datastore_endpoint.save_label = named


def check_infer_params() -> None:
    """Refuse parameters of an infer that are no JSON object, by name.

    Defect: they end in whatever exception their kind happens to raise.
    """
    run = infer_endpoint.run_inference

    @functools.wraps(run)
    def checked(
        background_tasks: Any,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = "{}",
        *files_and_output: Any,
    ) -> Any:
        _json_object(params)
        return run(background_tasks, model, image, session_id, params, *files_and_output)

    infer_endpoint.run_inference = checked


def _json_object(text: str) -> dict[str, Any]:
    found = json.loads(text or "{}")
    if not isinstance(found, dict):
        raise RequestError(f"params must be a JSON object, got {text[:80]}.")
    return found


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
    """Ask for the admin role before the app is thrown away.

    Defect: `POST /reload` is open to everybody, also where every other request needs a token.
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


def forward_queries(app: UncolApp) -> None:
    """Pass DICOMweb requests on to the PACS whole, off the event loop.

    Defects: the proxy drops the query string, so that every search finds everything (issue 1835),
    and its blocking request stops every other one. Storing through it, which submits a label,
    asks for the user's role only. A path with `..` reaches whatever else the PACS's server has,
    with this server's credentials.
    """
    upstream = server_settings.MONAI_LABEL_STUDIES.strip().rstrip("/")
    user = server_settings.MONAI_LABEL_DICOMWEB_USERNAME
    login = (user, server_settings.MONAI_LABEL_DICOMWEB_PASSWORD) if user else None
    if "googleapis.com" in upstream or not upstream.startswith("http"):
        return  # Google's token is fetched by the original

    async def proxied(request: Request, op: str, path: str) -> Response:
        storing = request.method == "POST"
        if storing and server_settings.MONAI_LABEL_AUTH_ENABLE:
            _needs_annotator(request)
        asked = functools.partial(
            requests.request,
            request.method,
            "/".join(part for part in (upstream, _prefix(op, path), _below_root(path)) if part),
            params=list(request.query_params.multi_items()),
            headers={"Content-Type": request.headers["content-type"]} if storing else {},
            data=await request.body() if storing else None,
            auth=login,
            timeout=PROXY_TIMEOUT_S,
        )
        try:
            answer = await anyio.to_thread.run_sync(asked)
        except requests.RequestException as error:
            raise PacsError(f"The PACS at {upstream} did not answer: {error}.") from error
        store = app.datastore()
        if storing and isinstance(store, PacsDatastore):
            await anyio.to_thread.run_sync(store.take_up_news)
        kept = {name: v for name, v in answer.headers.items() if name.lower() == "content-type"}
        return Response(answer.content, answer.status_code, kept)

    proxy_endpoint.proxy_dicom = proxied


def _below_root(path: str) -> str:
    """Return a decoded path as part of an address, below the DICOMweb root."""
    if any(part in (".", "..") for part in path.replace("\\", "/").split("/")):
        raise RequestError(f"'{path[:200]}' is no DICOMweb resource: it leaves the server's root.")
    return quote(path, safe="/,")


def _prefix(op: str, path: str) -> str:
    prefixes = {
        "wado": server_settings.MONAI_LABEL_WADO_PREFIX,
        "qido": server_settings.MONAI_LABEL_QIDO_PREFIX,
        "stow": server_settings.MONAI_LABEL_STOW_PREFIX,
    }
    # some versions of OHIF ask for metadata where they search
    return prefixes.get("wado" if path.endswith("metadata") else op) or ""


def _needs_annotator(request: Request) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    role = server_settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR
    if scheme.lower() != "bearer" or role not in auth.from_token(token).roles:
        raise HTTPException(403, f'Role "{role}" is required to store in the PACS')


def name_dicom_segments(app: UncolApp) -> None:
    """Answer `/infer?output=dicom_seg` with our own segmentations.

    Defect: segments are named by their place among those present, so that a missing label gives
    its name to the next.
    """

    def segmentation(series: str, label: str, info: list[dict[str, Any]], **_: Any) -> str:
        store = app.datastore()
        return write_dicom_result(store.segmentation(Path(series).name, label, info))

    infer_endpoint.DICOMWebDatastore = PacsDatastore  # what it accepts as a DICOM store
    infer_endpoint.nifti_to_dicom_seg = segmentation


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
