"""`/datastore/`: scans, labels and what is noted of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Never

from fastapi import APIRouter, File, Form, HTTPException, Query, UploadFile
from fastapi.responses import FileResponse, Response
from monailabel.utils.others.generic import get_mime_type

from uncol.data.imagefile import file_extension
from uncol.data.scan import as_one_file
from uncol.datastores.listing import FINAL
from uncol.errors import RequestError
from uncol.server.access import User
from uncol.server.answers import Answer
from uncol.server.door import Folder, extension_of, keep_upload, own_name
from uncol.server.routes.parts import Parts
from uncol.storage.plain import parse_object, plain_name, shown

Output = Literal["train", "stats", "all"]
CHECKSUMS = ("MD5", "SHA1", "SHA256", "SHA512")


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/datastore", tags=["Datastore"])
    _add_lists(router, parts)
    _add_images(router, parts)
    _add_labels(router, parts)
    return router


def _add_lists(router: APIRouter, parts: Parts) -> None:
    store = parts.desk.host.datastore

    @router.get("/", **parts.rule("user", "Get All Images/Labels from datastore"))
    def overview(output: Output | None = None) -> Answer:
        if output == "all":
            return Answer(parts.places.hide_in(store().json()))
        if output == "train":
            return Answer([_names_of(pair) for pair in store().datalist()])
        return Answer(parts.places.hide_in(store().status()))

    @router.get("/dataset", **parts.rule("annotator", "Download full dataset as ZIP archive"))
    def dataset(folder: Folder, limit_cases: Annotated[int | None, Query(ge=1)] = None) -> Response:
        pool = parts.desk.host.pool
        if pool is None:
            raise RequestError("This server's datastore gives no archive.")
        return _sent(pool.write_archive(folder / "dataset.zip", limit_cases))


def _add_images(router: APIRouter, parts: Parts) -> None:
    store = parts.desk.host.datastore
    add = parts.rule("annotator", "Upload new Image")
    remove = parts.rule("admin", "Remove Image and corresponding labels")
    annotator = parts.someone("annotator")

    @router.put("/", **add, include_in_schema=False, deprecated=True)
    @router.put("/image", **add)
    def add_image(
        folder: Folder,
        file: Annotated[UploadFile, File()],
        user: User = annotator,
        image: str | None = None,
        params: Annotated[str, Form()] = "{}",
    ) -> Answer:
        notes = _signed(user, parse_object(params, "params"))
        extension = extension_of(file)
        own = own_name(file)
        name = image or own[: len(own) - len(extension)]
        path = keep_upload(file, folder)
        return Answer({"image": store().add_image(name, str(path), notes)})

    @router.delete("/", **remove, include_in_schema=False, deprecated=True)
    @router.delete("/image", **remove)
    def remove_image(id: str) -> Answer:
        store().remove_image(_case(parts, id))
        return Answer({})

    @router.head("/image", **parts.rule("user", "Check If Image Exists"))
    def check_image(image: str, check_sum: str | None = None) -> Answer:
        path = _file(store().get_image_uri(_case(parts, image)), "Image")
        if check_sum and not _has_digest(path, check_sum):
            raise HTTPException(404, "Image NOT Found (checksum failed)")
        return Answer({})

    @router.get("/image", **parts.rule("user", "Download Image"))
    def download_image(image: str, folder: Folder) -> Response:
        case = _case(parts, image)
        path = as_one_file(_file(store().get_image_uri(case), "Image"), folder, case=case)
        return _sent(path, name=f"{case}{file_extension(path)}")

    @router.get("/image/info", **parts.rule("user", "Get Image Info"))
    def image_info(image: str) -> Answer:
        info = dict(store().get_image_info(_case(parts, image)))
        info.pop("path", None)
        return Answer(parts.places.hide_in(info))

    @router.put("/image/info", **parts.rule("annotator", "Update Image Info"))
    def note_image(
        image: str, user: User = annotator, info: Annotated[str, Form()] = "{}"
    ) -> Answer:
        notes = _signed(user, parse_object(info, "info"))
        store().update_image_info(_case(parts, image), notes)
        return Answer(None)


def _add_labels(router: APIRouter, parts: Parts) -> None:
    store = parts.desk.host.datastore
    annotator = parts.someone("annotator")

    @router.put("/label", **parts.rule("annotator", "Save Finished Label"))
    def save_label(
        image: str,
        folder: Folder,
        label: Annotated[UploadFile, File()],
        user: User = annotator,
        params: Annotated[str, Form()] = "{}",
        tag: str = str(FINAL),
    ) -> Answer:
        notes = _signed(user, parse_object(params, "params"))
        case, kind = plain_name(image, "image id"), plain_name(tag or FINAL, "label tag")
        path = keep_upload(label, folder)
        name = store().save_label(case, str(path), kind, notes)
        return Answer({"image": case, "label": name})

    @router.delete("/label", **parts.rule("admin", "Remove Label"))
    def remove_label(id: str, tag: str) -> Answer:
        store().remove_label(_case(parts, id), plain_name(tag, "label tag"))
        return Answer({})

    @router.head("/label", **parts.rule("user", "Check If Label Exists"))
    def check_label(image: str, tag: str) -> Answer:
        _label(parts, image, tag)
        return Answer({})

    @router.get("/label", **parts.rule("user", "Download Label"))
    def download_label(label: str, tag: str) -> Response:
        return _sent(_label(parts, label, tag))

    @router.get("/label/info", **parts.rule("user", "Get Label Info"))
    def label_info(label: str, tag: str) -> Answer:
        case, kind = _case(parts, label), plain_name(tag, "label tag")
        return Answer(store().get_label_info(case, kind))

    @router.put("/label/info", **parts.rule("annotator", "Update Label Info"))
    def note_label(
        label: str,
        tag: str,
        user: User = annotator,
        info: Annotated[str, Form()] = "{}",
    ) -> Answer:
        return note(label, tag, user, info)

    @router.put(
        "/updatelabelinfo",
        **parts.rule("annotator", "Update label info"),
        include_in_schema=False,
        deprecated=True,
    )
    def note_label_once(
        label: str,
        tag: str,
        user: User = annotator,
        params: Annotated[str, Form()] = "{}",
    ) -> Answer:
        return note(label, tag, user, params)

    def note(label: str, tag: str, user: User, info: str) -> Answer:
        notes = _signed(user, parse_object(info, "info"))
        case, kind = _case(parts, label), plain_name(tag, "label tag")
        store().update_label_info(case, kind, notes)
        return Answer(None)


def _case(parts: Parts, name: str) -> str:
    """Return a case's name.

    Raises:
        HTTPException: 404, there is no such case.
    """
    case = plain_name(name, "image id")
    if not parts.desk.host.datastore().get_image_info(case):
        _missing(f"There is no case {shown(name)}.")
    return case


def _label(parts: Parts, case: str, tag: str) -> Path:
    kind = plain_name(tag, "label tag")
    return _file(parts.desk.host.datastore().get_label_uri(_case(parts, case), kind), "Label")


def _file(uri: str, kind: str) -> Path:
    if not uri or not Path(uri).is_file():
        _missing(f"{kind} NOT Found")
    return Path(uri)


def _missing(text: str) -> Never:
    raise HTTPException(404, text)


def _sent(path: Path, name: str = "") -> FileResponse:
    name = name or path.name
    return FileResponse(path, media_type=get_mime_type(name), filename=name)


def _has_digest(path: Path, check_sum: str) -> bool:
    """Compare a file with `ALGORITHM:digest`, or with a SHA-256."""
    algorithm, colon, digest = check_sum.rpartition(":")
    name = algorithm.upper() if colon else "SHA256"
    if name not in CHECKSUMS:
        raise RequestError(f"check_sum must name one of {', '.join(CHECKSUMS)}.")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, name.lower()).hexdigest() == digest.lower()


def _names_of(pair: dict[str, Any]) -> dict[str, str]:
    """Return a scan and its label by their files' names; where they lie is the server's matter."""
    return {kind: Path(path).name for kind, path in pair.items()}


def _signed(user: User, notes: dict[str, Any]) -> dict[str, Any]:
    """Return a client's notes with the name of who sent them."""
    return {**notes, "user": user.name}
