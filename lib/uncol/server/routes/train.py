"""`/train/`: start, follow and stop a training."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from uncol.server.answers import Answer
from uncol.server.door import DoorRoute
from uncol.server.routes.parts import Parts, bodies_of


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/train", tags=["Train"], route_class=DoorRoute)

    @router.get("/", **parts.rule("user", "Get Status of Training Task"))
    def status(all: bool = False, check_if_running: bool = False) -> Answer:
        return parts.status_of("train", every=all, only_running=check_if_running)

    @router.post(
        "/",
        **parts.rule("admin", "Run All Training Tasks"),
        include_in_schema=False,
        deprecated=True,
    )
    def run_all(params: dict[str, Any] | None = None, run_sync: bool = False) -> Answer:
        bodies = bodies_of(params, parts.desk.tasks.trainers)
        started = {name: parts.desk.start_training(name, body) for name, body in bodies.items()}
        return parts.started(started, wait=run_sync)

    @router.post("/{model}", **parts.rule("admin", "Run Training Task for specific model"))
    def run(
        model: str,
        params: dict[str, Any] | None = None,
        run_sync: bool = False,
        enqueue: bool = False,
    ) -> Answer:
        del enqueue  # a second training is refused while one waits or runs
        return parts.answer_of(parts.desk.start_training(model, params or {}), wait=run_sync)

    @router.delete("/", **parts.rule("admin", "Stop Training Task"))
    def stop() -> Answer:
        return parts.stopped(parts.desk.stop_training())

    return router
