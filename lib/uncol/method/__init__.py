"""UnCoL itself: pure functions on tensors, one idea a file."""
