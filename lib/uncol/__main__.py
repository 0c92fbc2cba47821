"""`python -m uncol` is the command `uncol`."""

from uncol.cli import main

main()
