"""What individual viewers need of the server.

To add a viewer: a file here with what is special about it, and a group of routes that serves it
(`server/routes`). 3D Slicer needs nothing but what the tasks answer (`tasks/results.py`,
`tasks/markups.py`).
"""
