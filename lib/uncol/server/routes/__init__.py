"""MONAI Label's REST interface, one file per group of addresses.

The addresses, roles and answers are MONAI Label's; what clients send is checked before it reaches
anything (docs/monai-label.md says what that mends). To add a group: a file here with a function
that makes a router, and an entry in `GROUPS`.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from uncol.server.routes import (
    auth,
    batch,
    datastore,
    front,
    infer,
    info,
    logs,
    models,
    ohif,
    proxy,
    samples,
    scoring,
    sessions,
    train,
    unsupported,
)
from uncol.server.routes.parts import Parts

GROUPS: tuple[Callable[[Parts], APIRouter], ...] = tuple(
    group.make_router
    for group in (
        *(front, info, auth, infer, samples, train, scoring, batch, datastore, sessions, models),
        *(logs, ohif, proxy, unsupported),
    )
)
