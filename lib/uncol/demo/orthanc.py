"""Run Debian's Orthanc as a DICOMweb PACS on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from uncol.demo.server import free_port
from uncol.errors import PacsError

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ORTHANC_WAIT_S = 30


def missing() -> str:
    """Say what is missing to run Orthanc here; empty if nothing is."""
    if shutil.which("Orthanc") is None or not PLUGIN.exists():
        return "Orthanc with its DICOMweb plug-in: apt-get install orthanc orthanc-dicomweb"
    return ""


@contextmanager
def running_orthanc(folder: Path, *, port: int = 0) -> Iterator[str]:
    """Run Orthanc, yield its own address (its DICOMweb root is `<address>/dicom-web`), stop it.

    Args:
        folder: for its storage, log and configuration.
        port: the preferred port; another one is taken if it is not free.

    Raises:
        PacsError: it is not installed or does not come up.
    """
    if missing():
        raise PacsError(f"Not installed: {missing()}")
    port = free_port(port)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "Name": "uncol",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    config, log = folder / "orthanc.json", folder / "orthanc.log"
    config.write_text(json.dumps(settings, indent=2))
    with log.open("wb") as stream:
        child = subprocess.Popen(["Orthanc", str(config)], stdout=stream, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(child, url, log)
        yield url
    finally:
        child.terminate()
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def upload(url: str, folder: Path) -> int:
    """Send all DICOM files below a folder to an Orthanc; returns how many.

    Raises:
        PacsError: it does not accept one.
    """
    files = sorted(path for path in folder.rglob("*.dcm") if path.is_file())
    with requests.Session() as session:
        for path in files:
            answer = session.post(f"{url}/instances", data=path.read_bytes(), timeout=60)
            if not answer.ok:
                raise PacsError(f"Orthanc does not accept {path}: {answer.text[:200]}")
    return len(files)


def _wait(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + ORTHANC_WAIT_S
    while time.monotonic() < end and child.poll() is None:
        try:
            if requests.get(f"{url}/system", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise PacsError(f"Orthanc did not come up at {url}; see {log}.")
