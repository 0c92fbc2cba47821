"""How long requests take, for the benchmarks beside this file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def timed(ask: Callable[[int], object], count: int) -> dict[str, float]:
    """Return median and 95th percentile in milliseconds."""
    times = []
    for number in range(count):
        start = time.perf_counter()
        ask(number)
        times.append(1000 * (time.perf_counter() - start))
    p95 = statistics.quantiles(times, n=20)[-1]
    return {"median": round(statistics.median(times), 2), "p95": round(p95, 2)}
