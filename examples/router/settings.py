"""``router.toml``, read and checked."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

import sona_shm as sona

DEFAULT: Final = Path(__file__).with_name("router.toml")
Table = TypeVar("Table")


@dataclasses.dataclass(frozen=True)
class EmbedderSettings:
    """What turns a prompt into a vector."""

    kind: str
    dimension: int
    model: str = ""
    base_url: str = ""
    api_key_env: str = ""


@dataclasses.dataclass(frozen=True)
class UpstreamSettings:
    """One model that requests may be sent to."""

    name: str
    cost: float
    base_url: str
    model: str = ""
    api_key_env: str = ""
    timeout_seconds: float = 60.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that ``router.toml`` says; `engine` is what an engine is made with."""

    name: str
    engine: sona.SonaConfig
    embedder: EmbedderSettings
    upstreams: tuple[UpstreamSettings, ...]


def load(path: str | os.PathLike[str] | None = None) -> Settings:
    """The settings of a file; of ``$SONA_ROUTER``, or the one beside this module, without one.

    Raises
    ------
    sona_shm.ConfigError
        Where the file says what it cannot, with the place.
    """
    path = Path(path or os.environ.get("SONA_ROUTER") or DEFAULT)
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise sona.ConfigError(f"cannot read {path}: {error}") from None
    try:
        return _settings(content)
    except (sona.ConfigError, TypeError, KeyError, ValueError) as error:
        raise sona.ConfigError(f"{path}: {error}") from None


def _settings(content: dict[str, Any]) -> Settings:
    if set(content) != {"engine", "embedder", "upstreams"} or not content["upstreams"]:
        raise sona.ConfigError(
            f"there is {', '.join(content) or 'nothing'}; expected [engine], [embedder] and one "
            "[[upstreams]] for each model"
        )
    embedder = _table(EmbedderSettings, "[embedder]", content["embedder"])
    upstreams = tuple(
        _table(UpstreamSettings, "[[upstreams]]", table) for table in content["upstreams"]
    )
    engine = dict(content["engine"])
    name = engine.pop("name", "router")
    routes = [sona.Route(upstream.name, upstream.cost) for upstream in upstreams]
    config = sona.SonaConfig(hidden_dim=embedder.dimension, routes=routes, **engine)
    return Settings(name, config, embedder, upstreams)


def _table(kind: type[Table], place: str, table: Any) -> Table:
    """A table of the file, with each value of the type that is declared above."""
    if not isinstance(table, dict):
        raise sona.ConfigError(f"{place} is {table!r}, expected a table")
    types = get_type_hints(kind)
    for key, value in table.items():
        if key not in types:
            raise sona.ConfigError(f"{place} has {key}, expected {', '.join(types)}")
        if not isinstance(value, int | float if types[key] is float else types[key]):
            raise sona.ConfigError(f"{place} has {key} = {value!r}, expected {types[key].__name__}")
    return kind(**table)


def authorization(variable: str) -> dict[str, str]:
    """The header with the key that an environment variable holds; none where none is named.

    Raises
    ------
    sona_shm.ConfigError
        If the variable is not set.
    """
    if not variable:
        return {}
    try:
        return {"authorization": f"Bearer {os.environ[variable]}"}
    except KeyError:
        raise sona.ConfigError(
            f"api_key_env names {variable}, which is not set in the environment"
        ) from None
