"""The shared memory of an engine together with its configuration."""

from __future__ import annotations

import msgpack

from sona_shm.config import SonaConfig
from sona_shm.learning.snapshot import first_block
from sona_shm.shm.life_cycle import create_memory
from sona_shm.shm.memory import EngineMemory


def create_engine_memory(name: str, config: SonaConfig, *, replace: bool = False) -> EngineMemory:
    """The shared memory of a new engine, with its first weights published."""
    packed: bytes = msgpack.packb(config.to_mapping())
    return create_memory(name, config.geometry(), packed, first_block(config), replace=replace)


def config_of(memory: EngineMemory) -> SonaConfig:
    """The configuration that an engine was created with."""
    return SonaConfig.from_mapping(msgpack.unpackb(memory.config))
