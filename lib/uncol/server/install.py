"""Put the app into the server that MONAI Label has started."""

from __future__ import annotations

from pathlib import Path

import uvicorn
from monailabel.config import settings as server_settings

from uncol.datastores.connect import is_address
from uncol.server.access import Access, Realm
from uncol.server.api import make_api
from uncol.server.browsers import Allowed
from uncol.server.desk import Desk
from uncol.server.limits import MIB, share_heaps
from uncol.server.listen import (
    be_impatient,
    known_names,
    listen_safely,
    remove_log_settings,
    running,
)
from uncol.server.places import Places
from uncol.server.routes.parts import Parts
from uncol.server.sessions import Sessions
from uncol.settings import Settings
from uncol.versions.store import ModelStore

EXPANDED = 2  # an archive may unpack to this many times the largest upload


def install(desk: Desk, models: ModelStore, settings: Settings) -> None:
    """Take over MONAI Label's running server: all its addresses are answered here from now on.

    Args:
        desk: takes requests.
        models: the versions that clients may look at.
        settings: what the app was started with.

    Raises:
        SettingsError: another program has the port.
    """
    # the module builds the FastAPI application; importing it in a child would build another
    from monailabel.app import app as theirs  # noqa: PLC0415

    server = running()
    if server is not None:
        authenticated = server_settings.MONAI_LABEL_AUTH_ENABLE
        listen_safely(server, authenticated=authenticated)
        be_impatient(server)
        remove_log_settings(server)
    sessions = _sessions(settings)
    if sessions is not None:
        sessions.keep_sweeping()
    parts = Parts(desk, Access(_realm(settings)), models, sessions, _places(settings))
    api = make_api(
        parts,
        allowed=_allowed(settings, server),
        max_upload_mb=settings.max_upload_mb,
    )
    theirs.middleware_stack = api  # what their application hands every request to
    share_heaps()


def _realm(settings: Settings) -> Realm | None:
    if not server_settings.MONAI_LABEL_AUTH_ENABLE:
        return None
    return Realm(
        server_settings.MONAI_LABEL_AUTH_REALM_URI,
        issuer=settings.token_issuer,
        audience=settings.token_audience or server_settings.MONAI_LABEL_AUTH_CLIENT_ID,
    )


def _allowed(settings: Settings, server: uvicorn.Server | None) -> Allowed:
    theirs = (str(one).rstrip("/").lower() for one in server_settings.MONAI_LABEL_CORS_ORIGINS)
    names = known_names(server.config.host) if server is not None else set()
    return Allowed({*names, *settings.allowed_hosts}, {*settings.allowed_origins, *theirs})


def _sessions(settings: Settings) -> Sessions | None:
    if not server_settings.MONAI_LABEL_SESSIONS:
        return None
    path = server_settings.MONAI_LABEL_SESSION_PATH.strip()
    base = Path(path) if path else Path.home() / ".cache" / "monailabel" / "sessions"
    return Sessions(
        base / "uncol",  # beside those of other apps
        longest_s=server_settings.MONAI_LABEL_SESSION_EXPIRY,
        limit_bytes=EXPANDED * settings.max_upload_mb * MIB,
    )


def _places(settings: Settings) -> Places:
    studies = server_settings.MONAI_LABEL_STUDIES
    folders = [
        ("model folder", settings.model_dir),
        ("app folder", Path(server_settings.MONAI_LABEL_APP_DIR)),
    ]
    if studies and not is_address(studies):
        folders.append(("studies folder", Path(studies).resolve()))
    return Places(folders)
