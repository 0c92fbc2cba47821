"""What a request brings, taken in at the door: JSON, files, and a folder that goes with it."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio.to_thread
from fastapi import Depends, HTTPException, Request, UploadFile
from fastapi.responses import Response
from fastapi.routing import APIRoute

from uncol.data.imagefile import file_extension
from uncol.errors import RequestError, StorageError, why
from uncol.storage.plain import parse_json

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

EXTENSION = re.compile(r"(\.[a-z0-9]{1,8}){1,2}")
FOLDER_KEY = "uncol_folder"  # in the request's state
COPIED_AT_ONCE = 2**20


class _Checked(Request):
    """A request whose JSON is bounded and sound."""

    async def json(self) -> Any:
        """Return the body.

        Raises:
            HTTPException: 400, it is not JSON that can be kept.
        """
        if not hasattr(self, "_checked"):
            try:
                self._checked = parse_json(await self.body(), "The request's body")
            except RequestError as error:  # another exception would lose its words in FastAPI
                raise HTTPException(400, str(error)) from error
        return self._checked


class DoorRoute(APIRoute):
    """A route that takes JSON through `parse_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def checked(request: Request) -> Response:
            return await answer(_Checked(request.scope, request.receive))

        return checked


class RequestFolders:
    """ASGI middleware: a folder for each request that asks for one, gone when it is over."""

    def __init__(self, app: ASGIApp) -> None:
        """Serve an application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def removing(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await _remove(scope)  # before the client knows that its request is over
            await send(message)

        try:
            await self.app(scope, receive, removing)
        finally:
            with anyio.CancelScope(shield=True):  # the client may be gone already
                await _remove(scope)


async def _remove(scope: Scope) -> None:
    folder = scope.get("state", {}).pop(FOLDER_KEY, None)
    if folder is not None:
        await anyio.to_thread.run_sync(shutil.rmtree, folder, True)


def request_folder(request: Request) -> Path:
    """Return the request's own folder, which only this user may read."""
    state = request.scope.setdefault("state", {})
    if FOLDER_KEY not in state:
        try:
            state[FOLDER_KEY] = Path(tempfile.mkdtemp(prefix="request-"))
        except OSError as error:
            raise StorageError(f"No temporary file can be written: {why(error)}.") from error
    folder: Path = state[FOLDER_KEY]
    return folder


Folder = Annotated[Path, Depends(request_folder)]


async def client_gone(request: Request) -> AsyncIterator[threading.Event]:
    """Give an event that is set when the client leaves before it has its answer."""
    gone = threading.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass  # what is left of the body
        gone.set()

    watching = asyncio.create_task(watch())
    try:
        yield gone
    finally:
        watching.cancel()


Gone = Annotated[threading.Event, Depends(client_gone)]


def keep_upload(upload: UploadFile, folder: Path, name: str = "upload") -> Path:
    """Write an uploaded file to a folder and return its path; of its own name, only the kind stays.

    Raises:
        StorageError: it could not be written.
    """
    path = folder / f"{name}{extension_of(upload)}"
    try:
        with path.open("wb") as stream:
            shutil.copyfileobj(upload.file, stream, COPIED_AT_ONCE)
    except OSError as error:
        raise StorageError(
            f"The upload could not be kept: {why(error)}. Free some disk space."
        ) from error
    return path


def own_name(upload: UploadFile) -> str:
    """Return an uploaded file's own name, without the folders that some browsers send."""
    return (upload.filename or "").replace("\\", "/").rpartition("/")[2]


def extension_of(upload: UploadFile) -> str:
    """Return an uploaded file's extension in lower case; `.nii.gz` if it has none."""
    extension = file_extension(own_name(upload))
    return extension if EXTENSION.fullmatch(extension) else ".nii.gz"
