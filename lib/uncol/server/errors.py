"""Answers to requests that fail: what is wrong, for people; the trace stays in the log."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelException,
)
from starlette.exceptions import HTTPException as AnyHTTPException

from uncol.errors import UncolError
from uncol.server.answers import Answer
from uncol.server.places import Places
from uncol.tasks.requests import mistakes

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)


def answer_errors(api: FastAPI, places: Places) -> None:
    """Answer every error with a sentence under `detail`.

    Args:
        api: the application.
        places: what is taken out of the sentences.
    """

    def refusal(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
        return Answer({"detail": places.hide(text)}, status, headers)

    async def ours(_request: Request, error: Exception) -> Response:
        assert isinstance(error, UncolError)
        headers = {"Retry-After": "5"} if error.http_status in (429, 503) else None
        return refusal(error.http_status, str(error), headers)

    async def http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, AnyHTTPException)
        headers = dict(error.headers) if error.headers else None
        return refusal(error.status_code, str(error.detail), headers)

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        inner = [{**one, "loc": one["loc"][1:] or one["loc"]} for one in error.errors()]
        return refusal(422, mistakes(inner))

    async def theirs(_request: Request, error: Exception) -> Response:
        missing = isinstance(error, ImageNotFoundException | LabelNotFoundException)
        return refusal(404 if missing else 400, str(getattr(error, "msg", error)))

    api.add_exception_handler(UncolError, ours)
    api.add_exception_handler(AnyHTTPException, http)
    api.add_exception_handler(HTTPException, http)
    api.add_exception_handler(RequestValidationError, invalid)
    api.add_exception_handler(MONAILabelException, theirs)


class UnexpectedErrors:
    """ASGI middleware: what nobody foresaw is answered with a number that stands in the log."""

    def __init__(self, app: ASGIApp) -> None:
        """Guard an application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception:
            number = uuid.uuid4().hex[:12]
            logger.exception("Error %s at %s %s", number, scope.get("method"), scope.get("path"))
            if started or scope["type"] != "http":
                raise
            text = f"Something unexpected happened (error {number}). The server's log has more."
            await Answer({"detail": text}, 500)(scope, receive, send)
