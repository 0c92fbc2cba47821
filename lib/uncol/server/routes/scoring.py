"""`/scoring/`: start, follow and stop a scoring."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from uncol.server.answers import Answer
from uncol.server.door import DoorRoute
from uncol.server.routes.parts import Parts, bodies_of
from uncol.tasks.jobs import JOBS


def make_router(parts: Parts) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/scoring", tags=["Scoring"], route_class=DoorRoute)

    @router.get("/", **parts.rule("user", "Get Status of Scoring Task"))
    def status(all: bool = False, check_if_running: bool = False) -> Answer:
        return parts.status_of("scoring", every=all, only_running=check_if_running)

    @router.post(
        "/",
        **parts.rule("annotator", "Run All Scoring Tasks"),
        include_in_schema=False,
        deprecated=True,
    )
    def run_all(params: dict[str, Any] | None = None, run_sync: bool = False) -> Answer:
        bodies = bodies_of(params, parts.desk.tasks.scorings)
        started = {n: parts.desk.start_scoring(n, b, queue=True) for n, b in bodies.items()}
        return parts.started(started, wait=run_sync)

    @router.post("/{method}", **parts.rule("annotator", "Run Scoring Task for specific method"))
    def run(method: str, params: dict[str, Any] | None = None, run_sync: bool = False) -> Answer:
        return parts.answer_of(parts.desk.start_scoring(method, params or {}), wait=run_sync)

    @router.delete("/", **parts.rule("annotator", "Stop Scoring Task"))
    def stop() -> Answer:
        return parts.stopped(JOBS.stop("scoring"))

    return router
