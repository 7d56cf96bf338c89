"""The command line: ``sona COMMAND``; one file a command."""

from sona_shm.cli.main import main

__all__ = ["main"]
