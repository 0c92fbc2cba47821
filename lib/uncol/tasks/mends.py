"""Mends of MONAI Label 0.8.5's server that users of this app would meet as ours.

Each names the defect; tests/integration/test_mends.py holds a test that fails here once MONAI
Label mends it itself, so that the mend can go.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import jwt
import requests
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from monailabel.config import settings as server_settings
from monailabel.endpoints import infer as infer_endpoint
from monailabel.endpoints import ohif as ohif_endpoint
from monailabel.endpoints import proxy as proxy_endpoint
from monailabel.endpoints import train as train_endpoint
from monailabel.endpoints.user import auth
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelException,
)
from starlette.routing import request_response

from uncol.errors import PacsError, UncolError
from uncol.tasks.pacs import PacsDatastore
from uncol.tasks.results import write_dicom_result

if TYPE_CHECKING:
    from uncol.tasks.app import UncolApp

logger = logging.getLogger(__name__)

# what is wrong in the OHIF that the wheel ships, and what is served instead
OHIF_MENDS = {
    # Export DICOM SEG forgets to say where to: "Cannot read properties of undefined"
    "await dataSource.store.dicom(naturalizedReport);": (
        "dataSource = dataSource || extensionManager.getActiveDataSource()[0];"
        "await dataSource.store.dicom(naturalizedReport);"
    ),
    # it hands over the slices as displayed, while the writer takes them from the highest along the
    # normal to the lowest: in half of all series the label was mirrored
    "const segImages = imageIds.map(imageId => esm.cache.getImage(imageId));": (
        "const segImages = imageIds.map(imageId => esm.cache.getImage(imageId));"
        "const height = image => {"
        "const plane = esm.metaData.get('imagePlaneModule', image.referencedImageId);"
        "const [r, c, p] = [plane.rowCosines, plane.columnCosines, plane.imagePositionPatient];"
        "return (r[1] * c[2] - r[2] * c[1]) * p[0] + (r[2] * c[0] - r[0] * c[2]) * p[1]"
        " + (r[0] * c[1] - r[1] * c[0]) * p[2];};"
        "segImages.sort((a, b) => height(b) - height(a));"
    ),
    # parametric maps are read at a fourth of the right place, or not at all
    "new sourcePixelData.constructor(sourcePixelData.buffer, i * sliceLength, sliceLength)": (
        "sourcePixelData.subarray(i * sliceLength, (i + 1) * sliceLength)"
    ),
}
PROXY_TIMEOUT_S = 120  # a series' pixels may take a while


def mend_server(app: UncolApp) -> None:
    """Apply all mends to the running server."""
    # the module builds the FastAPI application; importing it in a child would build another
    from monailabel.app import app as api  # noqa: PLC0415

    answer_errors(api)
    unblock(api)
    check_before_training(app)
    check_tokens()
    guard_reload(api)
    forward_queries(app)
    name_dicom_segments(app)
    mend_ohif()


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

    async def realms(_request: Request, error: Exception) -> JSONResponse:
        answer = error.response if isinstance(error, requests.HTTPError) else None
        if answer is not None and answer.status_code in (400, 401):
            text = "The realm does not know this name or password."
            return JSONResponse({"detail": text}, status_code=401)
        return JSONResponse({"detail": f"Another server failed: {error}"}, status_code=502)

    api.add_exception_handler(UncolError, ours)
    api.add_exception_handler(requests.RequestException, realms)
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
    asks for the user's role only.
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
            "/".join(part for part in (upstream, _prefix(op, path), path) if part),
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


def mend_ohif() -> None:
    """Let OHIF store what was drawn and show maps where they belong, see `OHIF_MENDS`."""
    folder = Path(ohif_endpoint.__file__).parent / "static" / "ohif"
    original = ohif_endpoint.get_ohif

    @functools.cache
    def mended(name: str) -> str | None:
        """Return a script as it should be; None if nothing is wrong with it."""
        text = (folder / name).read_text(encoding="utf-8")
        found = [before for before in OHIF_MENDS if before in text]
        for before in found:
            text = text.replace(before, OHIF_MENDS[before])
        return text if found else None

    scripts = {path.name for path in folder.glob("*.js")}

    def get_ohif(path: str) -> Response:
        text = mended(path) if path in scripts else None
        if text is not None:
            return Response(text, media_type="text/javascript")
        served: Response = original(path)
        return served

    ohif_endpoint.get_ohif = get_ohif


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
