"""The published blocks as named arrays: weights, statistics, counters, patterns."""

from __future__ import annotations

import math
import struct
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.config import EXPERTS, SonaConfig
from sona_shm.errors import ConfigError, NonFiniteError, ShapeError
from sona_shm.learning.ewc import Anchor
from sona_shm.learning.lora import LoRA, initial_down_projection
from sona_shm.shm.layout import CACHE_LINE, LEARNER_COUNTERS, NAME_BYTES, OFFSETS, Geometry

# A baseline starts at the middle of [0, 1]: with the weight of one observation, or of none.
_BASELINES: Final = {"step_reward": (0.5, 1.0), "quality": (0.5, 1.0), "outcome": (0.5, 0.0)}
# Before anything was observed all experts count alike: what the mixture's least squares begin with.
_FIRST_WEIGHT: Final = _core.MIXTURE_PRIOR / _core.MIXTURE_RIDGE


class RouteRow(NamedTuple):
    """What one version knows of a route, for people and programs."""

    name: str
    active: bool
    cost: float
    price: float
    outcomes: int
    reward_mean: float
    latency_ms: float | None
    tokens: float | None


class TaskRow(NamedTuple):
    """Where the stream of requests stands among the tasks it goes through."""

    known: int
    current: int
    outcomes: int
    stay: int


class Snapshot:
    """Named views of one block; of a copy, never of shared memory."""

    def __init__(self, block: bytes | bytearray | memoryview, geometry: Geometry) -> None:
        self._block = block
        self._geometry = geometry
        self._sizes = geometry.sizes()
        rank, n = geometry.rank, geometry.hidden_dim
        self.micro_a = self._floats("micro_a", rank, n)
        self.micro_b = self._floats("micro_b", rank, n)
        self.feature_mean = self._floats("feature_mean", n)

    def _floats(self, name: str, *shape: int) -> NDArray[np.float32]:
        count = int(np.prod(shape))
        flat = np.frombuffer(self._block, np.float32, count, self._sizes[name])
        return flat.reshape(shape)

    def _unpack(self, form: str, start: int) -> Any:
        return struct.unpack_from(form, self._block, start)

    def _header(self, field: str, form: str = "<Q") -> Any:
        values = self._unpack(form, OFFSETS[f"snapshot_header.{field}"])
        return values[0] if len(values) == 1 else values

    @property
    def counters(self) -> dict[str, int]:
        """What the learner has counted, by name."""
        start = OFFSETS["snapshot_header.counters"]
        values = np.frombuffer(self._block, np.uint64, len(LEARNER_COUNTERS), start)
        return dict(zip(LEARNER_COUNTERS, map(int, values), strict=True))

    def count(self, counter: str, more: int = 1) -> None:
        """Add to a counter; of a block that may be written."""
        start = OFFSETS["snapshot_header.counters"] + 8 * LEARNER_COUNTERS.index(counter)
        struct.pack_into("<Q", self._block, start, self._unpack("<Q", start)[0] + more)

    @property
    def version(self) -> int:
        """The version this block was published as."""
        return int(self._header("version"))

    @property
    def reservoir_position(self) -> int:
        """Outcomes ever written to the reservoir."""
        return int(self._header("reservoir_position"))

    @property
    def refits(self) -> int:
        """Refits installed or given up."""
        return int(self._header("refits"))

    @property
    def expert_weights(self) -> dict[str, float]:
        """How much the mixture listens to each expert; 0 for those that are not mixed."""
        mixed = self._header("experts")
        start = OFFSETS["snapshot_header.mixture"] + OFFSETS["mixture.weight"]
        weights = self._unpack("<3d", start)
        return {
            name: float(weight) if mixed >> i & 1 else 0.0
            for i, (name, weight) in enumerate(zip(EXPERTS, weights, strict=True))
        }

    @property
    def spread(self) -> float:
        """Mean squared length of the centred embeddings."""
        return float(self._header("spread", "<2d")[0])

    @property
    def task(self) -> TaskRow:
        """The task that is learned now: its index, its outcomes, those of this stay alone."""
        start = self._sizes["task_detector"]

        def word(field: str) -> int:
            return int(self._unpack("<Q", start + OFFSETS[f"task_detector.{field}"])[0])

        return TaskRow(word("tasks"), word("current"), word("outcomes"), word("stay"))

    def lane_positions(self) -> list[int]:
        """How far each lane is learned in this version."""
        progress = np.dtype([("epoch", "<u8"), ("position", "<u8"), ("rest", "<u8", 4)])
        start = self._sizes["lane_progress"]
        table = np.frombuffer(self._block, progress, self._geometry.max_workers, start)
        return [int(row["position"]) for row in table]

    # ---- routes ----

    @property
    def route_count(self) -> int:
        """Routes that were ever added."""
        return min(int(self._header("routes")), self._geometry.routes)

    def _route_start(self, index: int) -> int:
        return self._sizes["routes_offset"] + index * self._sizes["route_stride"]

    def _route_value(self, index: int, field: str, form: str) -> Any:
        return self._unpack(form, self._route_start(index) + OFFSETS[f"route_state.{field}"])

    def route(self, index: int) -> RouteRow:
        """One route's row."""
        start = self._route_start(index)
        name = bytes(self._block[start : start + NAME_BYTES]).split(b"\0")[0]
        (flags,) = self._route_value(index, "flags", "<Q")
        cost, price = self._route_value(index, "cost", "<2d")
        outcomes, reward_mean = self._route_value(index, "outcomes", "<Qd")
        latency, latency_weight, tokens, tokens_weight = self._route_value(
            index, "latency_ms", "<4d"
        )
        return RouteRow(
            name=name.decode("utf-8", "replace"),
            active=bool(flags & _core.ROUTE_ACTIVE),
            cost=cost,
            price=price,
            outcomes=outcomes,
            reward_mean=reward_mean,
            latency_ms=latency if latency_weight else None,
            tokens=tokens if tokens_weight else None,
        )

    def routes(self) -> list[RouteRow]:
        """All routes in the order of their indices, the retired ones too."""
        return [self.route(i) for i in range(self.route_count)]

    def head(self, index: int) -> NDArray[np.float32]:
        """The linear expert's weights of a route, shape (hidden_dim,)."""
        start = self._route_start(index) + self._sizes["route_head"]
        return np.frombuffer(self._block, np.float32, self._geometry.hidden_dim, start)

    def bias(self, index: int) -> float:
        """The linear expert's bias of a route."""
        return float(self._route_value(index, "bias", "<d")[0])

    def bank(self, index: int) -> NDArray[np.float32]:
        """Per pattern: discounted weight, sum and sum of squares of a route's quality."""
        start = self._route_start(index) + self._sizes["route_bank"]
        flat = np.frombuffer(self._block, np.float32, 4 * self._geometry.patterns, start)
        return flat.reshape(-1, 4)[:, :3]

    def pattern_uses(self) -> NDArray[np.uint64]:
        """Per pattern: outcomes since the last refit, and the time of the last in nanoseconds."""
        start = self._sizes["pattern_uses"]
        flat = np.frombuffer(self._block, np.uint64, 2 * self._geometry.patterns, start)
        return flat.reshape(-1, 2)


class Patterns:
    """Named views of a slow block: projection, patterns, BaseLoRA, anchors; of a copy."""

    def __init__(self, block: bytes | bytearray | memoryview, geometry: Geometry) -> None:
        sizes = geometry.sizes()
        n, projected = geometry.hidden_dim, _core.PROJECTED
        stride = sizes["pattern_stride"]
        header = struct.unpack_from("<5Q", block)
        self.version, count, self.fitted_ns, self.rows, self.consolidations = header
        self.count = min(count, geometry.patterns)

        def floats(name: str, *shape: int) -> NDArray[np.float32]:
            flat = np.frombuffer(block, np.float32, int(np.prod(shape)), sizes[name])
            return flat.reshape(shape)

        self.projection = floats("slow_projection", projected, n)
        self.offset = floats("slow_offset", projected)
        columns = floats("slow_centroids", projected, stride)
        self.centroids = np.ascontiguousarray(columns[:, : self.count].T)
        self.full_centroids = floats("slow_full_centroids", geometry.patterns, n)[: self.count]
        self.sizes = np.frombuffer(block, np.uint64, self.count, sizes["slow_sizes"])
        self._block, self._geometry = block, geometry
        self.base_a = floats("slow_base_a", geometry.base_rank, n)
        self.base_b = floats("slow_base_b", geometry.base_rank, n)

    def anchor(self, route: int) -> Anchor | None:
        """What tasks other than the current one need of a route's head; None: nothing."""
        sizes, n = self._geometry.sizes(), self._geometry.hidden_dim
        start = sizes["slow_anchors"] + route * sizes["anchor_stride"]
        (outcomes,) = struct.unpack_from("<d", self._block, start)
        if not outcomes >= 1.0:
            return None
        rows = np.frombuffer(self._block, np.float32, 2 * n, start + CACHE_LINE)
        return Anchor(rows[:n], rows[n:])


def expert_bits(config: SonaConfig) -> int:
    """The header's mask of the experts that are mixed."""
    return sum(1 << i for i, expert in enumerate(EXPERTS) if expert in config.experts)


def first_block(config: SonaConfig) -> bytes:
    """What a new engine publishes as version 0: the identity adapter, routes without outcomes."""
    geometry = config.geometry()
    block = bytearray(geometry.sizes()["snapshot_bytes"])
    for baseline, values in _BASELINES.items():
        struct.pack_into("<2d", block, OFFSETS[f"snapshot_header.{baseline}"], *values)
    struct.pack_into("<Q", block, OFFSETS["snapshot_header.experts"], expert_bits(config))
    weights = [_FIRST_WEIGHT] * len(EXPERTS)
    start = OFFSETS["snapshot_header.mixture"] + OFFSETS["mixture.weight"]
    struct.pack_into("<3d", block, start, *weights)
    snapshot = Snapshot(block, geometry)
    snapshot.micro_a[:] = initial_down_projection(geometry.rank, geometry.hidden_dim)
    for route in config.routes:
        _core.add_route(block, tuple(geometry), route.name, route.cost, config.price(route))
    return bytes(block)


def first_slow_block(config: SonaConfig, adapter: LoRA | None = None) -> bytes:
    """What a new engine publishes beside it: no patterns, and the given adapter as BaseLoRA.

    Parameters
    ----------
    config : SonaConfig
    adapter : LoRA, optional
        Of a rank up to ``base_lora_rank``.  It is filled up with rows of zeros, and B scaled, so
        that the function stays the same at that rank.

    Raises
    ------
    ConfigError, ShapeError, NonFiniteError
        If the adapter does not fit the configuration, or is not finite.
    """
    geometry = config.geometry()
    block = bytearray(geometry.sizes()["slow_bytes"])
    if adapter is not None:
        _check_adapter(adapter, config)
        patterns = Patterns(block, geometry)
        patterns.base_a[: adapter.rank] = adapter.a
        with np.errstate(over="ignore"):
            patterns.base_b[: adapter.rank] = adapter.b * np.float32(
                math.sqrt(geometry.base_rank / adapter.rank)
            )
        struct.pack_into("<Q", block, OFFSETS["slow_header.consolidations"], 1)
        if not (np.isfinite(patterns.base_a).all() and np.isfinite(patterns.base_b).all()):
            raise NonFiniteError("the adapter holds NaN or infinity, expected finite numbers")
    return bytes(block)


def _check_adapter(adapter: LoRA, config: SonaConfig) -> None:
    if not isinstance(adapter, LoRA):
        raise ConfigError(
            f"adapter is {adapter!r}, expected a LoRA, such as read_peft(DIRECTORY) gives"
        )
    if adapter.a.shape[1] != config.hidden_dim:
        raise ShapeError(
            f"the adapter is for embeddings of {adapter.a.shape[1]} dimensions, expected "
            f"{config.hidden_dim}, the hidden_dim of the configuration"
        )
    if adapter.rank > config.base_lora_rank:
        raise ConfigError(
            f"the adapter has rank {adapter.rank}, expected at most the base_lora_rank of the "
            f"configuration, {config.base_lora_rank}; raise that"
        )
