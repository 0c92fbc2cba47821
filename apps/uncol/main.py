"""The app folder that `monailabel start_server --app apps/uncol` loads."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lib"))

from uncol.server.app import UncolApp

__all__ = ["UncolApp"]
