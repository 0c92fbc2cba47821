"""`/infer/`: run a model on a case, an upload or a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, HTTPException, UploadFile
from fastapi.responses import FileResponse, Response, StreamingResponse
from monailabel.utils.others.generic import get_mime_type
from pydantic_core import to_json
from requests_toolbelt import MultipartEncoder

from uncol.datastores.pacs import PacsDatastore
from uncol.errors import RequestError
from uncol.server.access import User
from uncol.server.answers import Answer
from uncol.server.desk import InferAnswer, Source
from uncol.server.door import Folder, Gone, keep_upload
from uncol.server.routes.parts import Parts
from uncol.storage.plain import parse_object, shown
from uncol.tasks.results import write_dicom_result
from uncol.wanted import wanted_until

Output = Literal["image", "json", "all", "dicom_seg"]
SENT_AT_ONCE = 2**16


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/infer", tags=["Infer"])

    someone = parts.someone("user")

    @router.post("/{model}", **parts.rule("user", "Run Inference for supported model"))
    def infer(
        model: str,
        folder: Folder,
        gone: Gone,
        image: str = "",
        session_id: str = "",
        params: Annotated[str, Form()] = "{}",
        file: Annotated[UploadFile | None, File()] = None,
        label: Annotated[UploadFile | None, File()] = None,
        output: Output | None = None,
        user: User = someone,
    ) -> Response:
        if label is not None:
            raise RequestError("Scribbles are not supported: use clicks or a box (uncol_prompt).")
        body = parse_object(params, "params")
        asked = parts.desk.options(body)
        if asked.save_label or asked.to_pacs:
            parts.access.require(user, "annotator")
        source = _source(parts, image, session_id, file, folder)
        with wanted_until(gone.is_set):
            answer = parts.desk.answer(model, source, asked, folder)
        if output == "json":
            return Answer(answer.params)
        if output == "image":
            return _file(answer.file)
        if output == "dicom_seg":
            return _file(_segmentation(parts, source, answer, body, folder))
        return _both(answer)

    return router


def _source(
    parts: Parts, image: str, session_id: str, file: UploadFile | None, folder: Path
) -> Source:
    if session_id:
        session = parts.sessions.get(session_id) if parts.sessions else None
        if parts.sessions is None or session is None:
            raise RequestError(f"There is no session {shown(session_id)}; it may have expired.")
        return Source(file=parts.sessions.image(session))
    if file is not None:
        return Source(file=keep_upload(file, folder))
    if not image:
        raise RequestError("Name a case (image), a session (session_id), or send a file.")
    return Source(case=image)


def _segmentation(
    parts: Parts, source: Source, answer: InferAnswer, body: dict[str, Any], folder: Path
) -> Path:
    """Return the answer as a DICOM Segmentation; MONAI Label's names segments by their place."""
    pool = parts.desk.host.pool
    if not isinstance(pool, PacsDatastore) or source.case is None:
        raise RequestError("dicom_seg needs a case of a server whose --studies is a PACS.")
    segments = body.get("label_info")
    if not segments:
        raise HTTPException(404, "Parameters for DICOM SEG inference cannot be empty!")
    made = pool.segmentation(source.case, str(answer.file), segments)
    return write_dicom_result(made, folder)


def _file(path: Path) -> FileResponse:
    kind = "application/dicom" if path.suffix == ".dcm" else get_mime_type(str(path))
    return FileResponse(path, media_type=kind, filename=path.name)


def _both(answer: InferAnswer) -> Response:
    """Return params and file as one multipart answer, sent piece by piece."""
    stream = answer.file.open("rb")
    text = to_json(answer.params, inf_nan_mode="null", fallback=str).decode()
    form = MultipartEncoder(
        fields={
            "params": (None, text, "application/json"),
            "image": (answer.file.name, stream, get_mime_type(str(answer.file))),
        }
    )

    def pieces() -> Iterator[bytes]:
        with stream:
            while piece := form.read(SENT_AT_ONCE):
                yield piece

    length = {"Content-Length": str(form.len)}
    return StreamingResponse(pieces(), media_type=form.content_type, headers=length)
