"""Making an engine where there is none, however many processes want to at the same time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sona_shm.checkpoint.format import Checkpoint
from sona_shm.checkpoint.rotation import newest_valid
from sona_shm.config import Route, SonaConfig
from sona_shm.engine.engine import Engine
from sona_shm.errors import ConfigError, EngineExists, EngineNotFound, EngineNotReady

logger = logging.getLogger("sona_shm.engine")


def ensure_engine(name: str, config: SonaConfig, checkpoints: Path | None = None) -> None:
    """Make the engine, unless it exists: it then keeps its configuration and what it has learned.

    Whoever else makes it meanwhile is as good.

    Parameters
    ----------
    name : str
    config : SonaConfig
    checkpoints : Path, optional
        Directory; where it holds a valid checkpoint, the engine begins with the newest one.

    Raises
    ------
    ConfigError
        If the routes are not those of the checkpoint.
    LayoutMismatch, CorruptSegment, EngineForbidden
        If what exists cannot be used.
    SharedMemoryTooSmall
        With the sizes.

    Examples
    --------
    >>> config = SonaConfig(hidden_dim=4)
    >>> ensure_engine("doc-ensure", config); ensure_engine("doc-ensure", config)
    >>> Engine.destroy("doc-ensure")
    """
    if _exists(name):
        return
    checkpoint = None if checkpoints is None else newest_valid(checkpoints)
    try:
        if checkpoint is None:
            Engine.create(name, config).close()
            logger.info("created %s anew", name)
            return
        changes = _changes(checkpoint, config)
        Engine.restore(name, checkpoint.path, changes=changes).close()
        logger.info("restored %s from %s, %s", name, checkpoint.path, changes or "as it was")
    except EngineExists:
        logger.info("%s was made by another process", name)


def _exists(name: str) -> bool:
    try:
        Engine.attach(name).close()
    except (EngineNotFound, EngineNotReady):
        return False
    return True


def _changes(checkpoint: Checkpoint, config: SonaConfig) -> dict[str, Any]:
    """What the configuration says otherwise than the checkpoint.

    Raises
    ------
    ConfigError
        If the routes are neither those at creation nor those in service.
    """
    state = checkpoint.state
    in_service = tuple(Route(row.name, row.cost) for row in state.routes if row.active)
    if config.routes not in (state.config.routes, in_service):
        raise ConfigError(
            f"the configuration has the routes {_listed(config.routes)}, the checkpoint "
            f"{checkpoint.path} has {_listed(in_service)}; start with those, then use add_route, "
            "retire_route and set_cost, or begin with an empty directory"
        )
    wanted, saved = config.to_mapping(), state.config.to_mapping()
    return {key: value for key, value in wanted.items() if key != "routes" and value != saved[key]}


def _listed(routes: Any) -> str:
    return ", ".join(f"{route.name} ({route.cost:g})" for route in routes) or "none"
