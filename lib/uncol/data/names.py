"""Names of structures, as people write them."""


def fold(name: str) -> str:
    """Return a name without what does not tell structures apart: capitals, blanks, underscores."""
    return "_".join(name.replace("_", " ").casefold().split())
