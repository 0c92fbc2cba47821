"""How unsure a prediction is, whether that is true, and what it says about the whole case."""
