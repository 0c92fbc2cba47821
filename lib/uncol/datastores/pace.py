"""How often something outside is looked at, so that a slow one is spared."""

SHORTEST_S = 1.0
LONGEST_S = 30.0
SHARE = 20  # in between: this many times what the last look took


def pause_after(took_s: float) -> float:
    """Return how long to wait, in s, after a look that took so long."""
    return min(max(SHARE * took_s, SHORTEST_S), LONGEST_S)
