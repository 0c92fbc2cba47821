"""How far a published student can be believed, judged on cases that did not train it."""
