"""The shared memory of an engine together with its configuration."""

from __future__ import annotations

import msgpack

from sona_shm.config import SonaConfig
from sona_shm.learning.lora import LoRA
from sona_shm.learning.snapshot import first_block, first_slow_block
from sona_shm.shm.life_cycle import Contents, create_memory
from sona_shm.shm.memory import EngineMemory


def create_engine_memory(
    name: str, config: SonaConfig, *, replace: bool = False, adapter: LoRA | None = None
) -> EngineMemory:
    """The shared memory of a new engine, with its first weights published."""
    packed: bytes = msgpack.packb(config.to_mapping())
    contents = Contents(
        config=packed, fast=first_block(config), slow=first_slow_block(config, adapter)
    )
    return create_memory(name, config.geometry(), contents, group=config.group, replace=replace)


def config_of(memory: EngineMemory) -> SonaConfig:
    """The configuration that an engine was created with."""
    return SonaConfig.from_mapping(msgpack.unpackb(memory.config))
