"""A training or a scoring, in a process of its own: `python -m uncol.tasks.child PARENT`.

Its standard input is a `ChildOrder`. What it writes to its standard output is shown to clients;
traces go to standard error, for the log.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from uncol.errors import UncolError
from uncol.tasks.parent import end_with


class ChildOrder(BaseModel):
    """What a child is to do.

    Attributes:
        kind: `train` or `scoring`.
        request: the request's fields.
        answer: file that the result is written to, as JSON.
    """

    kind: str
    request: dict[str, Any]
    answer: Path


class Worker(Protocol):
    """The app, as a child sees it."""

    def work(self, kind: str, request: dict[str, Any]) -> object:
        """Do a training or a scoring; return what it came to."""


class _Line(logging.Formatter):
    """One line per record, without a trace."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return f"{record.levelname}: {record.getMessage()}"


def main() -> int:
    """Do what standard input says; return the exit code."""
    end_with(int(sys.argv[1]))
    order = ChildOrder.model_validate_json(sys.stdin.read())
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(_Line())
    logging.basicConfig(level=logging.INFO, handlers=[lines])
    try:
        result = _app().work(order.kind, order.request)
        text = json.dumps(result, default=str)
        logging.getLogger(__name__).info("Result: %s", text)  # as MONAI Label's tasks end
        order.answer.write_text(text)
    except UncolError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    except MemoryError:
        traceback.print_exc()
        print("Memory ran out.", flush=True)
        return 1
    except Exception as error:
        traceback.print_exc()
        print(f"Unexpected {type(error).__name__}; the server's log has the trace.", flush=True)
        return 1
    return 0


def _app() -> Worker:
    # imported late: the parent is watched before this takes seconds
    from monailabel.interfaces.utils.app import app_instance  # noqa: PLC0415

    app: Worker = app_instance()
    return app


if __name__ == "__main__":
    sys.exit(main())
