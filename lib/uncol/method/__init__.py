"""UnCoL itself: pure functions on tensors, one idea per file."""
