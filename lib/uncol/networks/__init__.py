"""The student: its network, its moving average and its weights."""
