"""Refuse impossible and second trainings in the answer; remember the accepted one."""

from __future__ import annotations

import functools
from typing import Any

from monailabel.endpoints import train as train_endpoint

from uncol.server.host import Host
from uncol.tasks.pending import refuse_second


def manage_training(host: Host) -> None:
    """Refuse impossible and second trainings in the answer; remember the accepted one.

    Defects: impossible ones are accepted, and fail minutes later in a child's log; two requests in
    quick succession are both queued; a training is forgotten when the server dies.
    """
    run_model, run_all, stop = train_endpoint.run_model, train_endpoint.run, train_endpoint.stop

    def accept(model: str, params: dict[str, Any] | None) -> None:
        refuse_second()
        host.check_training(model, params or {})
        host.pending.note(params or {})

    @functools.wraps(run_model)
    def one(model: str, params: dict[str, Any] | None, *options: Any) -> Any:
        with host.pending.accepting:
            accept(model, params)
            return run_model(model, params, *options)

    @functools.wraps(run_all)
    def all_of_them(params: dict[str, Any] | None = None, *options: Any) -> Any:
        with host.pending.accepting:
            for model in host.info()["trainers"]:
                accept(model, (params or {}).get(model, {}))
            return run_all(params, *options)

    @functools.wraps(stop)
    def stopped() -> Any:
        host.pending.over()
        return stop()

    train_endpoint.run_model, train_endpoint.run, train_endpoint.stop = one, all_of_them, stopped
