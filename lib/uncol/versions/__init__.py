"""Published students: how each was made, which one is served, and whether a new one replaces it."""
