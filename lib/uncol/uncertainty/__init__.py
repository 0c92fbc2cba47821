"""How unsure a prediction is, whether that is true, and what it says of the whole case."""
