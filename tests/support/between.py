"""A server between this one and its PACS, which changes what a test wants changed."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler
from typing import ClassVar


class Between(BaseHTTPRequestHandler):
    """Passes requests on to the PACS, and changes what the test wants changed."""

    protocol_version = "HTTP/1.1"
    pacs = ""
    no_segmentations = cut = False
    swapped: ClassVar[dict[str, str]] = {}
    asked: ClassVar[list[tuple[str, str]]] = []

    def log_message(self, *_: object) -> None:
        return

    def pass_on(self) -> None:
        path = self.path
        Between.asked.append((self.command, path))
        if Between.no_segmentations and "Modality=SEG" in path:
            self.answer(200, "application/dicom+json", b"[]")
            return
        if "metadata" not in path and "?" not in path:
            for one, other in Between.swapped.items():
                path = path.replace(one, other)
        length = int(self.headers.get("Content-Length") or 0)
        kept = {n: self.headers[n] for n in ("Accept", "Content-Type") if self.headers.get(n)}
        request = urllib.request.Request(
            Between.pacs + path,
            data=self.rfile.read(length) if length else None,
            method=self.command,
            headers=kept,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                body = reply.read()
                if Between.cut and "metadata" not in path and "?" not in path:
                    body = body[: len(body) // 2]
                self.answer(reply.status, reply.headers.get("Content-Type"), body)
        except urllib.error.HTTPError as error:
            self.answer(error.code, error.headers.get("Content-Type"), error.read())

    def answer(self, status: int, kind: str | None, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind or "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = pass_on  # noqa: N815
