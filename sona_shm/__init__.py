"""Shared-memory online learning for LLM routers that run as many processes."""

from sona_shm.config import InstantLoopConfig, Route, SonaConfig
from sona_shm.engine import Engine
from sona_shm.errors import (
    ConfigError,
    CorruptSegment,
    DtypeError,
    EngineClosed,
    EngineExists,
    EngineForbidden,
    EngineNotFound,
    EngineNotReady,
    LayoutMismatch,
    NoFreeLaneError,
    NonFiniteError,
    NotTheLearner,
    OutOfRangeError,
    RecordTooLargeError,
    ShapeError,
    SharedMemoryTooSmall,
    SonaError,
)
from sona_shm.learner import Learner
from sona_shm.learning.lora import MicroLoRA
from sona_shm.learning.policy import route_probabilities
from sona_shm.loops.buffer import BufferStats, TrajectoryBuffer
from sona_shm.loops.instant import InstantLoop
from sona_shm.loops.metrics import InstantLoopMetrics
from sona_shm.monitor.stats import EngineStats, LaneStats, RouteStats
from sona_shm.trajectory import (
    Decision,
    LearningSignal,
    QueryTrajectory,
    TrajectoryBuilder,
    TrajectoryStep,
)

__version__ = "0.1.0"

__all__ = [
    "BufferStats",
    "ConfigError",
    "CorruptSegment",
    "Decision",
    "DtypeError",
    "Engine",
    "EngineClosed",
    "EngineExists",
    "EngineForbidden",
    "EngineNotFound",
    "EngineNotReady",
    "EngineStats",
    "InstantLoop",
    "InstantLoopConfig",
    "InstantLoopMetrics",
    "LaneStats",
    "LayoutMismatch",
    "Learner",
    "LearningSignal",
    "MicroLoRA",
    "NoFreeLaneError",
    "NonFiniteError",
    "NotTheLearner",
    "OutOfRangeError",
    "QueryTrajectory",
    "RecordTooLargeError",
    "Route",
    "RouteStats",
    "ShapeError",
    "SharedMemoryTooSmall",
    "SonaConfig",
    "SonaError",
    "TrajectoryBuffer",
    "TrajectoryBuilder",
    "TrajectoryStep",
    "route_probabilities",
]
