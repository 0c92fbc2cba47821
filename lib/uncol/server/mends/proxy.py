"""Pass DICOMweb requests on to the PACS with their query, off the event loop."""

from __future__ import annotations

import functools
from urllib.parse import quote

import anyio.to_thread
import requests
from fastapi import HTTPException, Request
from fastapi.responses import Response
from monailabel.config import settings as server_settings
from monailabel.endpoints import proxy as proxy_endpoint
from monailabel.endpoints.user import auth

from uncol.datastores.studies import UncolDatastore
from uncol.errors import PacsError, RequestError
from uncol.server.host import Host

PROXY_TIMEOUT_S = 120  # a series' pixels may take a while


def forward_queries(host: Host) -> None:
    """Pass DICOMweb requests on to the PACS with their query, off the event loop.

    Defects: the proxy drops the query string, so that every search finds everything (issue 1835),
    and its blocking request stops every other one. Storing through it, which submits a label,
    requires the user role only. A path with `..` reaches anything else on the PACS's server, with
    this server's credentials.
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
        store = host.datastore()
        if storing and isinstance(store, UncolDatastore):
            await anyio.to_thread.run_sync(store.take_up_news)
        headers = {name: v for name, v in answer.headers.items() if name.lower() == "content-type"}
        return Response(answer.content, answer.status_code, headers)

    proxy_endpoint.proxy_dicom = proxied


def _below_root(path: str) -> str:
    """Return a decoded path as part of an address, below the DICOMweb root."""
    if any(part in (".", "..") for part in path.replace("\\", "/").split("/")):
        raise RequestError(f"'{path[:200]}' is not a DICOMweb path: it leaves the server's root.")
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
