"""The compiled core; see ``_core/`` for the C sources and ``_core/layout.h`` for the layout."""

from collections.abc import Callable
from typing import Final, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Buffer, CapsuleType

from sona_shm.trajectory import QueryTrajectory

OFFSETS: Final[dict[str, int]]
LEARNER_COUNTERS: Final[tuple[str, ...]]
MAGIC: Final[int]
SONA_LAYOUT_VERSION: Final[int]
CELL_BUFFERS: Final[int]
LABEL_BYTES: Final[int]
POLICIES: Final[tuple[str, ...]]
NAME_BYTES: Final[int]
LARGEST_ROUTES: Final[int]
TASKS: Final[int]
TASK_MEANS: Final[int]
PROJECTED: Final[int]
EXPERTS: Final[int]
ROUTE_ADD: Final[int]
ROUTE_RETIRE: Final[int]
ROUTE_PRICE: Final[int]
ROUTE_ACTIVE: Final[int]
ROUTE_ARRIVED: Final[int]
RESERVOIR_ROW_BYTES: Final[int]
LANE_PROGRESS_BYTES: Final[int]
ROW_ABSENT: Final[int]
NO_ROUTE: Final[int]
BANK_CELL_BYTES: Final[int]
LANE_OWNER_BYTES: Final[int]
ERROR_ENTRY_BYTES: Final[int]
ERROR_ENTRIES: Final[int]
ERROR_TEXT_BYTES: Final[int]
RECORD_HEADER_BYTES: Final[int]
STEP_HEADER_BYTES: Final[int]
PAGE: Final[int]
CACHE_LINE: Final[int]
GENERATIONS: Final[int]
MOST_REFITS: Final[int]
LEAST_SPREAD: Final[float]
BANK_PRIOR: Final[float]
BANK_DECAY: Final[float]
MIXTURE_PRIOR: Final[float]
MIXTURE_RIDGE: Final[float]

_Geometry: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int]
_Decoded: TypeAlias = tuple[
    int,
    NDArray[np.float32],
    list[tuple[NDArray[np.float32], NDArray[np.float32], float, int]],
    float,
    int,
    bytes,
]

def geometry_sizes(geometry: tuple[int, ...], /) -> dict[str, int]: ...
def adapter_forward(
    a: NDArray[np.float32], b: NDArray[np.float32], x: ArrayLike, /
) -> NDArray[np.float32]: ...
def learn_direction(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    x: ArrayLike,
    direction: ArrayLike,
    target: float,
    rate: float,
    /,
) -> bool: ...
def policy_probabilities(
    name: str, scores: ArrayLike, deviations: ArrayLike, learned: int, strength: float, /
) -> list[float]: ...
def add_route(
    block: bytearray, geometry: tuple[int, ...], name: str, cost: float, price: float, /
) -> bool: ...
def refit_bounds(number: int, reservoir: int, /) -> tuple[int, int]: ...

class Words:
    def __init__(self, segment: Buffer) -> None: ...
    def load(self, offset: int, /) -> int: ...
    def store(self, offset: int, value: int, /) -> None: ...
    def add(self, offset: int, value: int, /) -> int: ...
    def exchange(self, offset: int, value: int, /) -> int: ...
    def first(self, offset: int, value: int, /) -> int: ...
    def release(self) -> None: ...

class Reader:
    def __init__(self, weights: Buffer, geometry: _Geometry) -> None: ...
    def apply(
        self, x: ArrayLike, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]: ...
    def _snapshot(self) -> bytes: ...
    def _patterns(self) -> tuple[bytes, bytes]: ...
    @overload
    def _rows(self, first: int, end: int, /) -> bytearray: ...
    @overload
    def _rows(self, first: int, end: int, /, *, whole: Literal[True]) -> bytearray | None: ...
    def _version(self) -> int: ...
    def _release(self) -> None: ...

class Lane:
    def __init__(
        self,
        control: Buffer,
        ring: Buffer,
        weights: Buffer,
        geometry: _Geometry,
        index: int,
        generation: int,
        seed: int,
        policy: str,
        strength: float,
        route_index: dict[str, int],
    ) -> None: ...
    def record(self, trajectory: QueryTrajectory, /) -> int: ...
    def feedback(
        self,
        id: int,
        quality: float,
        latency_ms: float | None = None,
        tokens: int | None = None,
        /,
    ) -> int: ...
    def decide(self, x: ArrayLike, allowed: bytes | None = None, /) -> tuple[int, int, float]: ...
    def predict(
        self, x: ArrayLike, allowed: bytes | None = None, /
    ) -> list[tuple[int, float, float, float]]: ...
    def observe(
        self,
        x: ArrayLike,
        route: int,
        quality: float,
        latency_ms: float | None = None,
        tokens: int | None = None,
        /,
    ) -> int: ...
    def change_route(
        self, operation: int, name: str, cost: float, price: float, expected: float, like: int, /
    ) -> int: ...
    def release(self) -> None: ...

class Learner:
    def __init__(
        self,
        control: Buffer,
        ring: Buffer,
        weights: Buffer,
        geometry: _Geometry,
        *,
        adapter_rate: float,
        head_rate: float,
        forgetting: float,
        flush_threshold: int,
        reference: bool,
        keep: bool,
        journal: bool,
        ewc: float,
        default_quality: float,
        feedback_timeout: float,
        reward: Callable[[int, float, float, int, int], float] | None,
    ) -> None: ...
    @property
    def refit_may_begin(self) -> bool: ...
    @property
    def refit_is_due(self) -> bool: ...
    @property
    def journal_is_behind(self) -> bool: ...
    @property
    def refits(self) -> int: ...
    def settle(self) -> None: ...
    def take_journal(self) -> tuple[bytes, bytes]: ...
    def refit_rows(self) -> bytearray: ...
    def prepare_refit(
        self,
        projection: NDArray[np.float32],
        offset: NDArray[np.float32],
        centroids: NDArray[np.float32],
        full_centroids: NDArray[np.float32],
        sizes: NDArray[np.uint64],
        rows: int,
        time_ns: int,
        scheduled: bool,
        /,
    ) -> CapsuleType: ...
    def catch_up_refit(self, refit: CapsuleType, limit: int, /) -> int: ...
    def install_refit(self, refit: CapsuleType, /) -> None: ...
    def end_scheduled_refit(self, installed: bool, /) -> None: ...
    def slow_changed(self) -> None: ...
    @property
    def unpublished(self) -> int: ...
    @property
    def unpublished_signals(self) -> int: ...
    def drain(self, limit: int, /) -> int: ...
    def drain_all(self) -> int: ...
    def publish(self) -> int: ...
    def apply_reference(self) -> None: ...
    def take(self) -> _Decoded | None: ...
    def may_sleep(self) -> bool: ...
    def wakes(self) -> None: ...
    def after_fork(self) -> None: ...
    def release(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
