"""Answer errors with their message."""

from __future__ import annotations

import json
import logging

import requests
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelException,
)

from uncol.errors import UncolError

logger = logging.getLogger(__name__)


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
            text = "Unknown user name or wrong password."
            return JSONResponse({"detail": text}, status_code=401)
        return JSONResponse({"detail": f"Another server failed: {error}"}, status_code=502)

    async def not_json(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": f"A parameter is not valid JSON: {error}."}, 400)

    async def unexpected(_request: Request, error: Exception) -> JSONResponse:
        logger.error("Unexpected", exc_info=error)
        text = f"Unexpected {type(error).__name__}: {error}. See the server's log."
        return JSONResponse({"detail": text}, status_code=500)

    api.add_exception_handler(UncolError, ours)
    api.add_exception_handler(json.JSONDecodeError, not_json)
    api.add_exception_handler(Exception, unexpected)
    api.add_exception_handler(requests.RequestException, realms)
    api.add_exception_handler(MONAILabelException, theirs)
