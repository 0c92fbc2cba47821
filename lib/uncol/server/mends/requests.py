"""Check what infer requests and submitted labels carry."""

from __future__ import annotations

import functools
import json
from typing import Any

from monailabel.endpoints import datastore as datastore_endpoint
from monailabel.endpoints import infer as infer_endpoint

from uncol.errors import RequestError


def name_annotators() -> None:
    """Keep with each label who submitted it.

    Defect: the user's name is logged and dropped.
    """
    save = datastore_endpoint.save_label

    @functools.wraps(save)
    def named(
        background_tasks: Any, image: str, params: str, tag: str, label: Any, user: str | None
    ) -> Any:
        info = json.dumps({**json_object(params), "user": user})
        return save(background_tasks, image, info, tag, label, user)

    datastore_endpoint.save_label = named


def check_infer_params() -> None:
    """Refuse infer parameters that are not a JSON object, with a message that says so.

    Defect: they end in whatever exception their type happens to raise.
    """
    run = infer_endpoint.run_inference

    @functools.wraps(run)
    def checked(
        background_tasks: Any,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = "{}",
        *files_and_output: Any,
    ) -> Any:
        json_object(params)
        return run(background_tasks, model, image, session_id, params, *files_and_output)

    infer_endpoint.run_inference = checked


def json_object(text: str) -> dict[str, Any]:
    """Parse a parameter that must be a JSON object.

    Raises:
        RequestError: it is something else.
    """
    parsed = json.loads(text or "{}")
    if not isinstance(parsed, dict):
        raise RequestError(f"params must be a JSON object, got {text[:80]}.")
    return parsed
