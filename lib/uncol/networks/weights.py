"""Weights on disk: download, verify, load strictly; never unpickle code."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import requests
import torch
from filelock import FileLock
from torch import Tensor, nn

from uncol.errors import StorageError, WeightsError, why

CHUNK = 1 << 20
TIMEOUT_S = 30
SHOWN_KEYS = 5
# what torch's safe unpickler raises on damaged files, found by flipping and cutting bytes
UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AssertionError,
    pickle.UnpicklingError,
    struct.error,
)


@dataclass(frozen=True)
class Download:
    """Weights that can be fetched.

    Attributes:
        name: file name in the weights folder.
        url: where they are published.
        sha256: expected digest; None if the publisher gives none. Then the digest of the first
            complete download is kept beside the file, and every later load must match it.
        size: expected length in bytes, if published.
    """

    name: str
    url: str
    sha256: str | None
    size: int | None = None


def fetch(item: Download, folder: Path) -> Path:
    """Return the weights file, downloading it first if needed; an interrupted download resumes.

    Raises:
        WeightsError: no connection, or what arrived is not what was expected.
        StorageError: the folder cannot be written.
    """
    target = folder / item.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(target) + ".lock"):
            if not target.exists():
                _download(item, target)
    except OSError as error:
        raise StorageError(
            f"Could not write {target}: {why(error)}. Free some disk space or choose "
            "another model_dir."
        ) from error
    verified_digest(target, item.sha256 or _kept_digest(target))
    return target


def verified_digest(path: Path, expected: str | None) -> str:
    """Return a file's sha256 and check it.

    Raises:
        WeightsError: the file is missing, or its digest is not the expected one.
    """
    if not path.is_file():
        raise WeightsError(
            f"Weights file {path} does not exist. Check the teacher_weights setting."
        )
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if expected is not None and digest != expected:
        raise WeightsError(
            f"Weights file {path} has sha256 {digest}, expected {expected}: it is damaged or "
            "another version. Delete it if it is still there and fetch it again (uncol weights "
            "fetch)."
        )
    return digest


def load_checkpoint(network: nn.Module, path: Path, *, entry: str | None = None) -> None:
    """Load a PyTorch checkpoint strictly.

    Args:
        network: what the weights are for.
        path: the checkpoint.
        entry: key under which the state lies, if the file has it; else the file is the state.

    Raises:
        WeightsError: the file cannot be read, or keys or shapes differ.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"Weights file {path} cannot be read: {reason}. Fetch it again (uncol weights fetch)."
        ) from error
    if entry is not None and isinstance(state, dict) and entry in state:
        state = state[entry]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            f"Weights file {path} does not fit {type(network).__name__}: it does not hold a "
            "network's weights. Fetch it again (uncol weights fetch) or name another file."
        )
    load_state(network, state, origin=str(path))


def load_state(network: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Load a state dict strictly.

    Raises:
        WeightsError: keys or shapes differ; the message names the first few.
    """
    own = network.state_dict()
    missing = sorted(set(own) - set(state))
    extra = sorted(set(state) - set(own))
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or extra or shapes:
        parts = [
            f"{title}: {', '.join(keys[:SHOWN_KEYS])}{' ...' if len(keys) > SHOWN_KEYS else ''}"
            for title, keys in (("missing", missing), ("unknown", extra), ("wrong shape", shapes))
            if keys
        ]
        raise WeightsError(
            f"Weights in {origin} do not fit {type(network).__name__} ({'; '.join(parts)}). "
            "They belong to another network or preset."
        )
    network.load_state_dict(state)


def _download(item: Download, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    try:
        _stream(item, partial)
    except requests.RequestException as error:
        raise WeightsError(
            f"Could not download {item.name} from {item.url}: {type(error).__name__}. "
            f"Without a connection, copy the file to {target} by hand, name another file with "
            "--conf teacher_weights, or use --conf teacher litemedsam, whose weights are installed."
        ) from error
    length = partial.stat().st_size
    if item.size is not None and length != item.size:
        partial.unlink()
        raise WeightsError(
            f"{item.name} arrived with {length} bytes, expected {item.size}. Fetch it again; if "
            "that repeats, something between here and the publisher changes the file."
        )
    if _is_page(partial):
        partial.unlink()
        raise WeightsError(
            f"{item.name} arrived as a web page, such as a proxy's login page. Log in there, or "
            f"copy the file to {target} by hand."
        )
    try:
        digest = verified_digest(partial, item.sha256)
    except WeightsError:
        partial.unlink()  # resuming would only extend a file that is already wrong
        raise
    if item.sha256 is None:
        _digest_file(target).write_text(digest + "\n")
    os.replace(partial, target)


def _stream(item: Download, partial: Path) -> None:
    mark = partial.with_name(f"{partial.name}.etag")  # which file the publisher had when it began
    start, headers = _rest(item, partial, mark)
    with requests.get(item.url, headers=headers, stream=True, timeout=TIMEOUT_S) as reply:
        if reply.status_code == requests.codes.requested_range_not_satisfiable:
            mark.unlink(missing_ok=True)
            return  # it was complete already
        reply.raise_for_status()
        header = reply.headers
        _check_ends(item, header)
        mark.write_text(header.get("ETag") or header.get("Last-Modified") or "")
        resumed = start > 0 and reply.status_code == requests.codes.partial_content
        with partial.open("ab" if resumed else "wb") as stream:
            for chunk in reply.iter_content(CHUNK):
                stream.write(chunk)
    mark.unlink()


def _rest(item: Download, partial: Path, mark: Path) -> tuple[int, dict[str, str]]:
    """Return how many bytes are there already, and what to ask for the rest."""
    known = mark.read_text() if mark.exists() else ""
    start = partial.stat().st_size if partial.exists() and (known or item.sha256) else 0
    if not start:
        return 0, {}
    return start, {"Range": f"bytes={start}-", **({"If-Range": known} if known else {})}


def _check_ends(item: Download, header: Mapping[str, str]) -> None:
    """Refuse a reply of which nobody could say whether all of it arrived.

    Raises:
        WeightsError: it is such a one.
    """
    ends = "Content-Length" in header or header.get("Transfer-Encoding") == "chunked"
    if not ends and item.sha256 is None and item.size is None:
        raise WeightsError(
            f"{item.name} comes from {item.url} without its length, so nobody could say "
            "whether all of it arrived. Copy the file there by hand, or use another network."
        )


def _is_page(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(64).lstrip().lower().startswith((b"<!doctype", b"<html", b"<head"))


def _digest_file(target: Path) -> Path:
    return target.with_name(target.name + ".sha256")


def _kept_digest(target: Path) -> str | None:
    digest_file = _digest_file(target)
    return digest_file.read_text().strip() if digest_file.exists() else None
