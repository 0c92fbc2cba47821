"""What routes are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Never

from fastapi import Depends, HTTPException

from uncol.errors import RequestError
from uncol.server.access import Access, Role, word_of
from uncol.server.answers import Answer
from uncol.server.desk import Desk
from uncol.server.places import Places
from uncol.server.sessions import Sessions
from uncol.storage.plain import shown
from uncol.tasks.jobs import JOBS, Job, Kind
from uncol.versions.store import ModelStore


@dataclass(frozen=True)
class Parts:
    """What routes are made of.

    Attributes:
        desk: takes requests.
        access: checks tokens and roles.
        models: the versions that clients may look at.
        sessions: uploads that are no cases; None if they are switched off.
        places: the server's folders, which clients do not see.
    """

    desk: Desk
    access: Access
    models: ModelStore
    sessions: Sessions | None
    places: Places

    def rule(self, role: Role, text: str) -> dict[str, Any]:
        """Return a route's role and summary; MONAI Label's summaries begin with the role."""
        summary = f"|RBAC: {word_of(role)}| - {text}" if self.access.realm else text
        return {"dependencies": [Depends(self.access.needs(role))], "summary": summary}

    def someone(self, role: Role) -> Any:
        """Return the default of a route's parameter `user`: who asks, if they have a role."""
        return Depends(self.access.needs(role))

    def shown(self, job: Job) -> dict[str, Any]:
        """Return what clients see of a job."""
        hidden: dict[str, Any] = self.places.hide_in(job.shown())
        return hidden

    def status_of(self, kind: Kind, *, every: bool, only_running: bool) -> Answer:
        """Answer how far jobs of a kind are, as MONAI Label does.

        Raises:
            HTTPException: 404, there is none.
        """
        jobs = JOBS.all(kind)
        if only_running:
            running = JOBS.running(kind)
            if running is None:
                _none(f"No {kind} task is running.")
            return Answer(self.shown(running))
        if not jobs:
            _none(f"There was no {kind} task yet.")
        return Answer([self.shown(job) for job in jobs] if every else self.shown(jobs[-1]))

    def answer_of(self, job: Job, *, wait: bool) -> Answer:
        """Answer a job that was started; or what it came to, if the client waits for it.

        Raises:
            HTTPException: 500, it failed.
        """
        if not wait:
            return Answer(self.shown(job))
        job.over.wait()
        if job.status != "DONE":
            last = job.details[-1] if job.details else ""
            raise HTTPException(500, f"The {job.kind} task ended as {job.status}. {last}")
        return Answer(self.places.hide_in(job.result))

    def started(self, jobs: Mapping[str, Job], *, wait: bool) -> Answer:
        """Answer the jobs that one request started, by task, perhaps when they are over."""
        for job in jobs.values() if wait else ():
            job.over.wait()
        return Answer(
            {name: {"result": self.shown(job), "detail": None} for name, job in jobs.items()}
        )

    def stopped(self, job: Job | None) -> Answer:
        """Answer a job that was stopped; null if there was none."""
        return Answer(self.shown(job) if job is not None else None)


def bodies_of(params: Mapping[str, Any] | None, tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return each task's options out of a request for all tasks.

    What stands under a task's name is for that task, as OHIF sends it; the rest is for all of them,
    as scripts for MONAI Label send it.

    Raises:
        RequestError: what stands under a task's name is no object.
    """
    names = list(tasks)
    own = {name: (params or {}).get(name) or {} for name in names}
    for name, options in own.items():
        if not isinstance(options, dict):
            raise RequestError(
                f"The options of {name} must be a JSON object, got {shown(options)}."
            )
    common = {word: value for word, value in (params or {}).items() if word not in own}
    return {name: {**common, **options} for name, options in own.items()}


def _none(text: str) -> Never:
    raise HTTPException(404, text)
