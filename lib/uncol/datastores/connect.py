"""The connection to the PACS given as `--studies`, by MONAI Label's own settings."""

from __future__ import annotations

import logging
from pathlib import Path

from dicomweb_client import DICOMwebClient
from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials
from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings as server_settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.utils.others.generic import md5_digest

from uncol.dicom.web import Pacs

UNSET_FILTER = {"Modality": "CT"}  # MONAI Label's default, under which MR is never listed
MODALITIES = {"ct": ["CT"], "mr": ["MR"], "auto": ["CT", "MR"]}


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


def _client(url: str) -> DICOMwebClient:
    client = _connected(url)
    # retries would keep a request waiting for a minute; a later request tries again instead
    client.set_http_retry_params(retry=False)
    return client


def _connected(url: str) -> DICOMwebClient:
    if "googleapis.com" in url:
        return DICOMwebClient(url=url, session=create_session_from_gcp_credentials())
    user = server_settings.MONAI_LABEL_DICOMWEB_USERNAME
    password = server_settings.MONAI_LABEL_DICOMWEB_PASSWORD
    client: DICOMwebClient = DICOMwebClientX(
        url=url,
        session=create_session_from_user_pass(user, password) if user and password else None,
        qido_url_prefix=server_settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=server_settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=server_settings.MONAI_LABEL_STOW_PREFIX,
    )
    return client
