"""What individual viewers need of the server.

To add a viewer: a file here with a function that prepares the server for it, and an entry in
`VIEWERS`. 3D Slicer needs nothing but what the tasks answer (`tasks/results.py`,
`tasks/markups.py`).
"""

from uncol.server.viewers.ohif import mend_ohif

VIEWERS = (mend_ohif,)
