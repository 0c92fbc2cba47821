"""Who can reach the server: the address it listens on, and how long a client may take."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import uvicorn

from uncol.errors import SettingsError
from uncol.server.browsers import LOOPBACK

logger = logging.getLogger(__name__)

SYSTEM_TEMPORARY = tempfile.gettempdir()  # before this process has its own
HEADERS_WITHIN_S = 30.0
EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not listened on
HOST_OPTIONS = ("-i", "--ho")  # argparse takes abbreviations


def running() -> uvicorn.Server | None:
    """Return the uvicorn that runs this process's server; it offers no way to ask for it."""
    return next((one for one in gc.get_objects() if isinstance(one, uvicorn.Server)), None)


def remove_log_settings(server: uvicorn.Server) -> None:
    """Remove the file of log settings that MONAI Label leaves in the temporary folder."""
    path = Path(str(server.config.log_config))
    chosen = any(word in ("-l", "--log_config") for word in sys.argv)
    if not chosen and path.suffix == ".json" and str(path.parent) == SYSTEM_TEMPORARY:
        path.unlink(missing_ok=True)


def listen_safely(server: uvicorn.Server, *, authenticated: bool) -> None:
    """Choose the address before the server opens its socket, and say who can reach it.

    MONAI Label listens on every interface unless told otherwise. Without authentication, this
    server does so only if `--host` was given.

    Raises:
        SettingsError: another program has the port.
    """
    config = server.config
    chosen = any(word.startswith(HOST_OPTIONS) for word in sys.argv)
    if not chosen and not authenticated and config.host in EVERYWHERE:
        config.host = "127.0.0.1"
    _check_free(config.host, config.port)
    if config.host in LOOPBACK:
        logger.info("Only programs on this machine reach the server (%s).", config.host)
    elif authenticated:
        logger.info("The network reaches the server (%s); it asks for a login.", config.host)
    else:
        logger.warning(
            "EVERYBODY in the network can read scans and change labels: the server listens on %s "
            "and asks for no login. Turn on authentication (SECURITY.md), or leave --host out.",
            config.host,
        )


def be_impatient(server: uvicorn.Server) -> None:
    """Let connections go whose request's headers do not arrive; uvicorn waits for ever."""
    usual: Any = server.config.http_protocol_class

    class Impatient(usual):  # type: ignore[misc]
        """The usual protocol, with a clock."""

        _clock: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:  # the headers of a request are complete
                self._calm()
            elif self.cycle is None or self.cycle.response_complete:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._calm()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._clock is None:
                self._clock = self.loop.call_later(HEADERS_WITHIN_S, self.transport.close)

        def _calm(self) -> None:
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

    server.config.http_protocol_class = Impatient


def known_names(host: str) -> set[str]:
    """Return the names by which a browser may know a server that listens on an address."""
    names = {host.lower()}
    if host in EVERYWHERE:
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return names - set(EVERYWHERE)


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            who = next(
                (f" (process {one.pid})" for one in _listening() if one.laddr.port == port), ""
            )
            raise SettingsError(
                f"The server cannot listen on {host}:{port}: {error.strerror}{who}. Stop the other "
                "program, or choose another --port."
            ) from error


def _listening() -> list[Any]:
    try:
        return [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    except psutil.AccessDenied:
        return []
