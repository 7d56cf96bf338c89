"""Shared-memory online learning for LLM routers that run as many processes."""

from sona_shm.config import Route, SonaConfig
from sona_shm.engine import Engine
from sona_shm.errors import (
    CheckpointError,
    ConfigError,
    CorruptSegment,
    DtypeError,
    EngineClosed,
    EngineExists,
    EngineForbidden,
    EngineInUse,
    EngineNotFound,
    EngineNotReady,
    ExportError,
    JournalError,
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
from sona_shm.export.patterns import PatternTable, read_patterns
from sona_shm.export.peft import read_peft, write_peft
from sona_shm.export.preferences import PreferencePair, read_preferences
from sona_shm.journal.reader import Journal, read_journal
from sona_shm.learner import Learner
from sona_shm.learning.lora import LoRA, MicroLoRA
from sona_shm.learning.policy import route_probabilities
from sona_shm.learning.reasoning_bank import LearnedPattern, ReasoningBank
from sona_shm.loops.buffer import BufferStats, TrajectoryBuffer
from sona_shm.loops.config import InstantLoopConfig
from sona_shm.loops.drain import LearnerOptions
from sona_shm.loops.export import ExportSummary
from sona_shm.loops.instant import InstantLoop
from sona_shm.loops.learn_result import HeadResult, LearnResult
from sona_shm.loops.metrics import InstantLoopMetrics
from sona_shm.loops.reward import Outcome
from sona_shm.monitor.stats import EngineStats, LaneStats, RouteStats
from sona_shm.replay import ReplayResult, replay, replay_config
from sona_shm.shm.diagnostics import NotedError
from sona_shm.trajectory import (
    Decision,
    LearningSignal,
    Prediction,
    QueryTrajectory,
    TrajectoryBuilder,
    TrajectoryStep,
)

__version__ = "0.1.0"

__all__ = [
    "BufferStats",
    "CheckpointError",
    "ConfigError",
    "CorruptSegment",
    "Decision",
    "DtypeError",
    "Engine",
    "EngineClosed",
    "EngineExists",
    "EngineForbidden",
    "EngineInUse",
    "EngineNotFound",
    "EngineNotReady",
    "EngineStats",
    "ExportError",
    "ExportSummary",
    "HeadResult",
    "InstantLoop",
    "InstantLoopConfig",
    "InstantLoopMetrics",
    "Journal",
    "JournalError",
    "LaneStats",
    "LayoutMismatch",
    "LearnResult",
    "LearnedPattern",
    "Learner",
    "LearnerOptions",
    "LearningSignal",
    "LoRA",
    "MicroLoRA",
    "NoFreeLaneError",
    "NonFiniteError",
    "NotTheLearner",
    "NotedError",
    "OutOfRangeError",
    "Outcome",
    "PatternTable",
    "Prediction",
    "PreferencePair",
    "QueryTrajectory",
    "ReasoningBank",
    "RecordTooLargeError",
    "ReplayResult",
    "Route",
    "RouteStats",
    "ShapeError",
    "SharedMemoryTooSmall",
    "SonaConfig",
    "SonaError",
    "TrajectoryBuffer",
    "TrajectoryBuilder",
    "TrajectoryStep",
    "read_journal",
    "read_patterns",
    "read_peft",
    "read_preferences",
    "replay",
    "replay_config",
    "route_probabilities",
    "write_peft",
]
