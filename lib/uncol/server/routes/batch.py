"""`/batch/`: run a model on many cases and keep its labels."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from uncol.server.answers import Answer
from uncol.server.desk import Images
from uncol.server.door import DoorRoute
from uncol.server.routes.parts import Parts
from uncol.tasks.jobs import JOBS


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/batch", tags=["Infer"], route_class=DoorRoute)

    @router.get("/infer", **parts.rule("user", "Get Status of Batch Inference Task"))
    def status(all: bool = False, check_if_running: bool = False) -> Answer:
        return parts.status_of("batch_infer", every=all, only_running=check_if_running)

    @router.post("/infer/{model}", **parts.rule("admin", "Run Batch Inference Task"))
    def run(
        model: str,
        images: Images = "all",
        params: dict[str, Any] | None = None,
        run_sync: bool = False,
    ) -> Answer:
        return parts.answer_of(parts.desk.start_batch(model, images, params or {}), wait=run_sync)

    @router.delete("/infer", **parts.rule("admin", "Stop Batch Inference Task"))
    def stop() -> Answer:
        return parts.stopped(JOBS.stop("batch_infer"))

    return router
