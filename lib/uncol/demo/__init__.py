"""The demo: a whole annotation session, played against a real server."""
