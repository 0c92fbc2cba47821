"""Work that nobody waits for any more stops at its next step.

A scan of a hundred million voxels takes minutes, and requests compute one at a time: without this,
a client that has gone would keep all others waiting until its answer, which nobody reads, is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from uncol.errors import NoLongerWantedError

_gone: ContextVar[Callable[[], bool]] = ContextVar("gone", default=lambda: False)


@contextlib.contextmanager
def wanted_until(gone: Callable[[], bool]) -> Iterator[None]:
    """Let what computes inside stop once its result is no longer wanted.

    Threads that are started with a copy of this context, as routes are, belong to it.

    Args:
        gone: says whether nobody waits any more; asked often and from other threads.
    """
    before = _gone.set(gone)
    try:
        yield
    finally:
        _gone.reset(before)


def check_wanted() -> None:
    """Ask this between the steps of long work.

    Raises:
        NoLongerWantedError: nobody waits for the result any more.
    """
    if _gone.get()():
        raise NoLongerWantedError("Nobody waits for this any more: the client has gone.")
