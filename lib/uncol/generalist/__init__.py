"""The generalist: the frozen foundation model, its prompts and what it knows about a pool."""
