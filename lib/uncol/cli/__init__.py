"""The console command `uncol`.

Each command imports what it needs when it runs, so that `--help` and shell completion answer at
once: loading torch, MONAI and MONAI Label takes seconds.
"""

from uncol.cli.app import main

__all__ = ["main"]
