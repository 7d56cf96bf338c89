"""Configuration of an engine: values, validation, presets, sizes."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from sona_shm.errors import ConfigError
from sona_shm.shm.layout import (
    LARGEST_ROUTES,
    NAME_BYTES,
    PAGE,
    TASKS,
    Geometry,
    typical_record_bytes,
)

LARGEST_LANE = 2**31
LARGEST_PRICE = 1e6

UpdateRule = Literal["exact", "reference"]
PolicyName = Literal["maillard", "thompson", "softmax", "squarecb", "epsilon_greedy"]
ExpertName = Literal["linear", "ridge", "bank"]
EXPERTS: tuple[ExpertName, ...] = get_args(ExpertName)


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """One candidate that requests can be sent to.

    Parameters
    ----------
    name : str
        Unique among the routes of an engine, at most 63 bytes of UTF-8.
    cost : float
        Price of using it, in any unit, not negative; ``reward = quality - cost_weight * cost``.

    Examples
    --------
    >>> Route("small", cost=0.01)
    Route(name='small', cost=0.01)
    """

    name: str
    cost: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"the name of a route is {self.name!r}, expected a non-empty string")
        if len(self.name.encode()) >= NAME_BYTES or "\0" in self.name:
            raise ConfigError(
                f"the name of a route is {self.name[:80]!r}, expected at most {NAME_BYTES - 1} "
                "bytes of UTF-8 without NUL"
            )
        _number(f"cost of route {self.name!r}", self.cost, 0.0, 1e30)


def _number(name: str, value: object, low: float, high: float) -> None:
    # NaN compares false with everything.
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}, expected a number from {low:g} to {high:g}")


def _integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}, expected an integer from {low} to {high}")


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(choices)}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SonaConfig:
    """All settings of an engine; fixed at its creation and read from there by every process.

    Parameters
    ----------
    hidden_dim : int
        Length of an embedding, 1 to 65536.
    micro_lora_rank : int
        Rank of the MicroLoRA, 1 to 64; 1 or 2 is what it is made for.
    micro_lora_lr : float
        Step of the MicroLoRA.  The crate's default hardly moves it in ten thousand trajectories;
        where they are to adapt embeddings, 0.3 to 1 does.
    base_lora_rank : int
        Rank of the BaseLoRA, into which Loop B folds the MicroLoRA, 1 to 64.
    background_interval_ms : int
        Loop B runs so often, where learning is a thread, a process or a daemon.
    base_lora_lr, quality_threshold
        Kept with the crate's defaults, so that its configurations can be read.  Nothing uses them:
        the BaseLoRA learns by folding and not by steps of its own, and a bad outcome teaches as
        much as a good one, so none is filtered out.
    ewc_lambda : float
        How much heads are held to what other tasks need: 1 counts all outcomes of theirs once
        (Laplace's approximation), 0 not at all; up to 1e6.  The crate's default of 2000 counts
        them thousands of times and hinders what is new.
    max_tasks : int
        Tasks that are remembered and recognised, up to 8; 0 or 1 remembers none.
    pattern_clusters : int
        Patterns of the bank, 1 to 4096.
    trajectory_capacity : int
        How many typical trajectories (one step) all lanes hold together until they are learned;
        where the learner is inline, up to half of it holds learned ones for `drain_trajectories`.
    routes : sequence of Route
        Candidates at creation, up to 1024; empty for an engine that only adapts embeddings.
    max_routes : int or None
        Routes that there is room for, later ones included.  None: twice as many as at creation,
        at least 16; 0 where there are none.
    cost_weight : float
        ``reward = quality - cost_weight * cost``.
    policy : {"maillard", "thompson", "softmax", "squarecb", "epsilon_greedy"}
        How to explore; docs/architecture.md compares them.
    exploration : float or None
        Strength of the policy: factor on the predictions' standard deviations (``maillard``,
        ``thompson``), temperature (``softmax``), gamma over the square root of the outcomes
        (``squarecb``, more explores less), share of uniform choices (``epsilon_greedy``).
        None: what worked best on one half of the benchmark's rows.
    experts : sequence of {"linear", "ridge", "bank"}
        Which experts are mixed.
    head_lr : float
        AdaGrad step of the linear expert.
    forgetting : float
        How fast old outcomes lose their weight: 1 as chosen by experiment, 2 twice as fast,
        0 never; up to 10.
    reservoir : int
        Recent outcomes that patterns are fitted to, 64 to 1048576.
    default_quality : float or None
        Learned for a decision that has no feedback after `feedback_timeout_s`; None learns
        nothing.
    feedback_timeout_s : float
        Seconds, see `default_quality`.
    update_rule : {"exact", "reference"}
        ``"reference"`` keeps the published crate's arithmetic for the MicroLoRA.
    flush_threshold : int
        The learner publishes at the latest after this many signals.
    flush_interval_ms : float or None
        Once it has caught up with every lane, the learner publishes as soon as the oldest
        unpublished signal is this old; 0 publishes at once, None only at `flush_threshold`.
        An inline learner looks at the clock only when something is recorded.
    max_workers : int
        Number of lanes: processes that record at the same time.
    pending_decisions : int
        Decisions that each worker's slots remember for late feedback.
    seed : int or None
        Makes every lane's choices reproducible; None takes them from the system.
    group : str
        Unix group whose members may attach, record and learn; empty: only the user who creates
        the engine.

    Examples
    --------
    >>> config = SonaConfig(hidden_dim=384, routes=[Route("small", 0.01), Route("large", 1.0)])
    >>> config.micro_lora_rank, config.flush_threshold
    (2, 100)
    >>> config.nbytes() < 64 * 2**20
    True
    """

    hidden_dim: int = 256
    micro_lora_rank: int = 2
    base_lora_rank: int = 8
    micro_lora_lr: float = 0.002
    base_lora_lr: float = 0.0001
    ewc_lambda: float = 1.0
    max_tasks: int = 4
    pattern_clusters: int = 100
    trajectory_capacity: int = 10000
    background_interval_ms: int = 3600000
    quality_threshold: float = 0.3
    routes: Sequence[Route] = ()
    max_routes: int | None = None
    cost_weight: float = 1.0
    policy: PolicyName = "maillard"
    exploration: float | None = None
    experts: Sequence[ExpertName] = EXPERTS
    head_lr: float = 0.12
    forgetting: float = 1.0
    reservoir: int = 2048
    default_quality: float | None = None
    feedback_timeout_s: float = 3600.0
    update_rule: UpdateRule = "exact"
    flush_threshold: int = 100
    flush_interval_ms: float | None = 0.0
    max_workers: int = 16
    pending_decisions: int = 1024
    seed: int | None = None
    group: str = ""

    def __post_init__(self) -> None:
        _integer("hidden_dim", self.hidden_dim, 1, 65536)
        _integer("micro_lora_rank", self.micro_lora_rank, 1, 64)
        _integer("base_lora_rank", self.base_lora_rank, 1, 64)
        _number("micro_lora_lr", self.micro_lora_lr, 0.0, 1.0)
        _number("base_lora_lr", self.base_lora_lr, 0.0, 1.0)
        _number("ewc_lambda", self.ewc_lambda, 0.0, 1e6)
        _integer("max_tasks", self.max_tasks, 0, TASKS)
        _integer("pattern_clusters", self.pattern_clusters, 1, 4096)
        _integer("trajectory_capacity", self.trajectory_capacity, 1, 10**7)
        _integer("background_interval_ms", self.background_interval_ms, 1, 10**10)
        _number("quality_threshold", self.quality_threshold, 0.0, 1.0)
        _number("cost_weight", self.cost_weight, 0.0, 1e12)
        _choice("policy", self.policy, get_args(PolicyName))
        self._check_exploration()
        _number("head_lr", self.head_lr, 0.0, 10.0)
        _number("forgetting", self.forgetting, 0.0, 10.0)
        _integer("reservoir", self.reservoir, 64, 1 << 20)
        if self.default_quality is not None:
            _number("default_quality", self.default_quality, 0.0, 1.0)
        _number("feedback_timeout_s", self.feedback_timeout_s, 0.0, 1e9)
        _choice("update_rule", self.update_rule, ("exact", "reference"))
        _integer("flush_threshold", self.flush_threshold, 1, 10**6)
        if self.flush_interval_ms is not None:
            _number("flush_interval_ms", self.flush_interval_ms, 0.0, 1e7)
        _integer("max_workers", self.max_workers, 1, 1024)
        _integer("pending_decisions", self.pending_decisions, 1, 1 << 24)
        if self.seed is not None:
            _integer("seed", self.seed, 0, 2**63 - 1)
        if not isinstance(self.group, str) or "\0" in self.group or len(self.group) > 256:
            raise ConfigError(f"group is {self.group!r}, expected the name of a Unix group, or ''")
        self._check_experts()
        self._check_routes()
        self.geometry()

    def _check_exploration(self) -> None:
        if self.exploration is None:
            return
        if self.policy == "epsilon_greedy":
            _number("exploration", self.exploration, 0.0, 1.0)
        else:
            _number("exploration", self.exploration, 1e-6, 1e6)

    def _check_experts(self) -> None:
        experts = self.experts
        if isinstance(experts, str) or not isinstance(experts, Sequence):
            raise ConfigError(f"experts is {experts!r}, expected a sequence of {EXPERTS}")
        for expert in experts:
            _choice("an expert", expert, EXPERTS)
        object.__setattr__(self, "experts", tuple(e for e in EXPERTS if e in experts))

    def _check_routes(self) -> None:
        routes: tuple[Any, ...]
        try:
            routes = tuple(self.routes)
        except TypeError:
            routes = (None,)  # refused by the next line
        if not all(isinstance(route, Route) for route in routes):
            raise ConfigError(f"routes is {self.routes!r}, expected a sequence of Route")
        object.__setattr__(self, "routes", routes)
        names = [route.name for route in self.routes]
        if len(set(names)) != len(names):
            raise ConfigError(f"routes have the names {names}, expected each name once")
        if len(names) > LARGEST_ROUTES:
            raise ConfigError(f"{len(names)} routes were given, expected at most {LARGEST_ROUTES}")
        if self.max_routes is not None:
            _integer("max_routes", self.max_routes, len(names), LARGEST_ROUTES)
        for route in routes:
            self.price(route)

    def price(self, route: Route) -> float:
        """What a route's cost takes off its reward.

        Raises
        ------
        ConfigError
            If it is so large that quality would not matter.

        Examples
        --------
        >>> SonaConfig(cost_weight=0.5).price(Route("large", cost=1.0))
        0.5
        """
        price = self.cost_weight * route.cost
        if price > LARGEST_PRICE:
            raise ConfigError(
                f"cost_weight * cost of route {route.name!r} is {price:g}, expected at most "
                f"{LARGEST_PRICE:g}; rewards are near 1"
            )
        return price

    def route_capacity(self) -> int:
        """Routes that there is room for.

        Examples
        --------
        >>> SonaConfig(routes=[Route("a"), Route("b")]).route_capacity()
        16
        """
        if self.max_routes is not None:
            return self.max_routes
        return min(LARGEST_ROUTES, max(16, 2 * len(self.routes))) if self.routes else 0

    @classmethod
    def max_throughput(cls, **changes: Any) -> SonaConfig:
        """The crate's preset for the least work per request.

        Examples
        --------
        >>> SonaConfig.max_throughput(hidden_dim=64).base_lora_rank
        4
        """
        return _preset(
            changes,
            base_lora_rank=4,
            micro_lora_lr=0.0005,
            trajectory_capacity=5000,
            background_interval_ms=7200000,
            quality_threshold=0.4,
        )

    @classmethod
    def max_quality(cls, **changes: Any) -> SonaConfig:
        """The crate's preset for learning from more, in more detail.

        Examples
        --------
        >>> SonaConfig.max_quality().base_lora_rank
        16
        """
        return _preset(
            changes,
            base_lora_rank=16,
            base_lora_lr=0.001,
            trajectory_capacity=20000,
            background_interval_ms=1800000,
            quality_threshold=0.2,
        )

    @classmethod
    def edge_deployment(cls, **changes: Any) -> SonaConfig:
        """The crate's preset for little memory: under 5 MB here too, with four workers.

        Examples
        --------
        >>> SonaConfig.edge_deployment().nbytes() < 5_000_000
        True
        """
        return _preset(
            changes,
            micro_lora_rank=1,
            base_lora_rank=4,
            micro_lora_lr=0.001,
            pattern_clusters=50,
            reservoir=512,
            trajectory_capacity=200,
            quality_threshold=0.5,
            max_workers=4,
            pending_decisions=256,
        )

    @classmethod
    def batch_processing(cls, **changes: Any) -> SonaConfig:
        """The crate's preset for steady batches.

        Examples
        --------
        >>> SonaConfig.batch_processing().micro_lora_lr
        0.001
        """
        return _preset(changes, micro_lora_lr=0.001)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SonaConfig:
        """A configuration from plain values, as a TOML or JSON file gives them.

        Parameters
        ----------
        values : mapping
            Field names; ``routes`` is a list of ``{"name": ..., "cost": ...}``.

        Raises
        ------
        ConfigError
            For an unknown name or a value out of range.

        Examples
        --------
        >>> SonaConfig.from_mapping({"hidden_dim": 8, "routes": [{"name": "a"}]}).routes
        (Route(name='a', cost=0.0),)
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a configuration is {values!r}, expected a table of settings")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"unknown settings {', '.join(map(str, unknown))}; known are "
                f"{', '.join(sorted(known))}"
            )
        settings = dict(values)
        try:
            settings["routes"] = tuple(Route(**route) for route in settings.get("routes", ()))
        except TypeError:
            raise ConfigError(
                f"routes is {settings['routes']!r}, expected a list of tables with name and cost"
            ) from None
        return cls(**settings)

    @classmethod
    def from_file(cls, path: str | Path) -> SonaConfig:
        r"""A configuration from a ``.toml`` or ``.json`` file.

        Raises
        ------
        ConfigError
            If the file cannot be read or parsed, or a value is out of range.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "engine.toml")
        >>> _ = path.write_text('hidden_dim = 8\n[[routes]]\nname = "a"\n')
        >>> SonaConfig.from_file(path).hidden_dim
        8
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the configuration {path}: {error}") from None
        return cls.from_mapping(values)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_mapping`.

        Examples
        --------
        >>> config = SonaConfig(hidden_dim=8, routes=[Route("a")])
        >>> SonaConfig.from_mapping(config.to_mapping()) == config
        True
        """
        return dataclasses.asdict(self) | {
            "routes": [dataclasses.asdict(route) for route in self.routes],
            "experts": list(self.experts),
        }

    def geometry(self) -> Geometry:
        """The numbers that all sizes in shared memory follow from.

        Examples
        --------
        >>> SonaConfig(hidden_dim=8, max_workers=2).geometry().max_workers
        2
        """
        typical = typical_record_bytes(self.hidden_dim)
        # One record more than asked for, because the end of the ring may be left unused.
        records = math.ceil(self.trajectory_capacity / self.max_workers) + 1
        # The largest record is half a lane, and two typical ones must always fit.
        lane_bytes = math.ceil(max(records, 4) * typical / PAGE) * PAGE
        if lane_bytes > LARGEST_LANE:
            raise ConfigError(
                f"trajectory_capacity is {self.trajectory_capacity}, which makes lanes of "
                f"{lane_bytes:,} bytes, expected at most {LARGEST_LANE:,}; lower it, or raise "
                "max_workers, over which it is shared out"
            )
        return Geometry(
            hidden_dim=self.hidden_dim,
            rank=self.micro_lora_rank,
            routes=self.route_capacity(),
            max_workers=self.max_workers,
            pending_decisions=self.pending_decisions,
            lane_bytes=lane_bytes,
            patterns=self.pattern_clusters,
            reservoir=self.reservoir,
            base_rank=self.base_lora_rank,
            tasks=self.max_tasks,
        )

    def nbytes(self) -> int:
        """Bytes of shared memory that an engine of this configuration takes.

        Examples
        --------
        >>> SonaConfig(hidden_dim=64).nbytes() < SonaConfig(hidden_dim=128).nbytes()
        True
        """
        sizes = self.geometry().sizes()
        return sizes["control_bytes"] + sizes["ring_bytes"] + sizes["weights_bytes"]


def _preset(changes: dict[str, Any], **preset: Any) -> SonaConfig:
    return SonaConfig(**(preset | changes))
