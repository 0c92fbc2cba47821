"""The connection to the PACS given as `--studies`, by MONAI Label's own settings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import google.auth
import google.auth.transport.requests
import requests
from dicomweb_client import DICOMwebClient
from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials
from monailabel.config import settings as server_settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.utils.others.generic import md5_digest

from uncol.dicom.web import Pacs

UNSET_FILTER = {"Modality": "CT"}  # MONAI Label's default, under which MR is never listed
PACS_WAITS_S = (10.0, 60.0)  # to connect, and between two pieces of an answer
MODALITIES = {"ct": ["CT"], "mr": ["MR"], "auto": ["CT", "MR"]}


class PacsSession(requests.Session):
    """A connection that waits for a limited time and goes nowhere else."""

    def request(self, *arguments: Any, **named: Any) -> requests.Response:
        """Send a request; raises as `requests.Session.request`."""
        named["timeout"] = named.get("timeout") or PACS_WAITS_S
        return super().request(*arguments, **named)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where a redirect leads, if that is the same server.

        Raises:
            requests.TooManyRedirects: it leads to another one.
        """
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        there, here = urlsplit(urljoin(resp.url, target)), urlsplit(resp.url)
        if (there.scheme, there.netloc) != (here.scheme, here.netloc):
            raise requests.TooManyRedirects(
                f"it sends us to another server, {there.netloc}, which is not followed"
            )
        return target


def connect(url: str, modality: str) -> Pacs:
    """Return the PACS at a URL.

    Args:
        url: its DICOMweb root.
        modality: the app's setting; decides what is listed, unless
            `MONAI_LABEL_DICOMWEB_SEARCH_FILTER` is set.
    """
    logging.getLogger("dicomweb_client").setLevel(logging.WARNING)  # it logs every search
    wanted = server_settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER
    if wanted == UNSET_FILTER:
        searches = [{"Modality": word} for word in MODALITIES[modality]]
    else:
        searches = [wanted]
    return Pacs(_client(url), searches)


def mirror_folder(url: str) -> str:
    """Return the folder in which a PACS is mirrored."""
    cache = server_settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip()
    root = Path(cache) if cache else Path.home() / ".cache" / "monailabel" / "dicom"
    return str(root / f"uncol-{md5_digest(url)}")


def is_address(studies: str) -> bool:
    """Say whether `--studies` is a PACS's address, not a folder."""
    return studies.strip().startswith(("http://", "https://"))


def is_google(url: str) -> bool:
    """Say whether a PACS is one of Google's, which takes its own tokens."""
    return (urlsplit(url).hostname or "").endswith("googleapis.com")


def token_of_google() -> str:
    """Return a fresh token for Google's PACS, from the machine's own credentials."""
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    credentials, _ = google.auth.default(scopes=scopes)
    credentials.refresh(google.auth.transport.requests.Request())
    return str(credentials.token)


def _client(url: str) -> DICOMwebClient:
    client = _connected(url)
    # retries would keep a request waiting for a minute; a later request tries again instead
    client.set_http_retry_params(retry=False)
    return client


def _connected(url: str) -> DICOMwebClient:
    if is_google(url):
        return DICOMwebClient(url=url, session=create_session_from_gcp_credentials())
    user = server_settings.MONAI_LABEL_DICOMWEB_USERNAME
    password = server_settings.MONAI_LABEL_DICOMWEB_PASSWORD
    session = PacsSession()
    if user and password:
        session.auth = (user, password)
    client: DICOMwebClient = DICOMwebClientX(
        url=url,
        session=session,
        qido_url_prefix=server_settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=server_settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=server_settings.MONAI_LABEL_STOW_PREFIX,
    )
    return client
