"""What a worker holds: its requests, its routes, the engine's life."""

from sona_shm.engine.engine import Engine

__all__ = ["Engine"]
