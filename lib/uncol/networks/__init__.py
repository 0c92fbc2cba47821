"""A tensor becomes features: the student and the frozen generalists."""
