"""What came of a cycle of Loop B, and how it reaches who asked for it."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from typing import Any, Final, Literal

import msgpack

from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.memory import EngineMemory
from sona_shm.shm.waiting import wait_until

LearnStatus = Literal["done", "skipped", "failed", "unanswered"]
_REQUESTED: Final = OFFSETS["control_header.learn_requested"]
_SERVED: Final = OFFSETS["control_header.learn_served"]
_STANDBY_SECONDS: Final = 1.0  # more than a standby takes to follow a learner
_LOOKS: Final = 1000  # at a result that one cycle after the other replaces
_HEADER: Final = struct.Struct("<II")  # length, checksum
_LONGEST_REASON: Final = 1000  # characters; a result of the most routes still fits


@dataclasses.dataclass(frozen=True, slots=True)
class HeadResult:
    """What came of refitting the head of one route.

    Attributes
    ----------
    route : int
        Index.
    rows : int
        Outcomes of the route in the reservoir.
    improvement : float
        By how much the refitted head's mean squared error on held-out outcomes was smaller.
    refitted : bool
        Whether it replaced the live one.

    Examples
    --------
    >>> HeadResult(0, 500, -0.01, False).refitted
    False
    """

    route: int
    rows: int
    improvement: float
    refitted: bool


@dataclasses.dataclass(frozen=True, slots=True)
class LearnResult:
    """What came of a cycle of Loop B.

    Attributes
    ----------
    status : {"done", "skipped", "failed", "unanswered"}
        Whether it was installed; skipped for want of trajectories; lost, with nothing changed; or
        asked for, and nobody has answered in time.
    reason : str
        Why it is not done, or which part of it was left out; empty if there is nothing to say.
    rows : int
        Outcomes in the reservoir that it learned from.
    patterns_found, patterns_pruned, patterns_merged : int
    patterns_installed : int
        0 where the patterns were not replaced.
    patterns_improvement : float
        By how much the mean squared error of the bank on held-out outcomes was smaller with the
        new patterns; they replace those in use where it is.
    heads : tuple of HeadResult
        Of the routes with enough outcomes.
    consolidated : bool
        Whether the MicroLoRA was folded into the BaseLoRA.
    truncation_error : float
        Largest change of an adapted unit embedding that the fold can have made.
    truncation_relative : float
        Frobenius norm of what was cut off, over that of both adapters together.
    seconds : dict of str to float
        By part: reading, patterns, heads, repeating the outcomes, installing.
    version_before, version_after : int
        Published versions.

    Examples
    --------
    >>> import sona_shm as sona
    >>> with sona.Engine.create("doc-result", sona.SonaConfig(hidden_dim=2), "inline") as engine:
    ...     result = engine.force_learn()
    >>> result.status, result.reason
    ('skipped', '0 signals since the last cycle, which needs 100')
    >>> sona.Engine.destroy("doc-result")
    """

    status: LearnStatus
    reason: str = ""
    rows: int = 0
    patterns_found: int = 0
    patterns_pruned: int = 0
    patterns_merged: int = 0
    patterns_installed: int = 0
    patterns_improvement: float = 0.0
    heads: tuple[HeadResult, ...] = ()
    consolidated: bool = False
    truncation_error: float = 0.0
    truncation_relative: float = 0.0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    version_before: int = 0
    version_after: int = 0

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON.

        Examples
        --------
        >>> LearnResult("failed", "it was killed").to_mapping()["status"]
        'failed'
        """
        return dataclasses.asdict(self) | {
            "heads": [dataclasses.asdict(head) for head in self.heads]
        }


def request_cycle(memory: EngineMemory, timeout: float) -> LearnResult:
    """Ask the learner for a cycle, and wait for what comes of it."""
    control = memory.control
    ticket = control.add(_REQUESTED, 1) + 1
    memory.wake_learner()
    if not wait_until(lambda: memory.lock_states()[0], min(timeout, _STANDBY_SECONDS)):
        return LearnResult("unanswered", "nobody learns; the request stands, for sona learner")
    wait_until(lambda: control.load(_SERVED) >= ticket or memory.is_destroyed, timeout)
    if control.load(_SERVED) < ticket and memory.is_destroyed:
        return LearnResult("unanswered", "the engine was destroyed meanwhile")
    if control.load(_SERVED) < ticket:
        return LearnResult("unanswered", f"no answer within {timeout:g} s; the request stands")
    answers = (load_result(memory) for _ in range(_LOOKS))
    result = next((answer for answer in answers if answer is not None), None)
    return result or LearnResult("failed", "the result cannot be read")


def store_result(memory: EngineMemory, result: LearnResult) -> None:
    """Write a result where requesters look for it; only the learner may."""
    heads = [dataclasses.astuple(head) for head in result.heads]
    changed = {"heads": heads, "reason": result.reason[:_LONGEST_REASON]}
    body: bytes = msgpack.packb(dataclasses.asdict(result) | changed)
    start, area = memory.sizes["result_offset"], memory.buffer("control")
    written = _HEADER.pack(len(body), zlib.crc32(body)) + body
    area[start : start + len(written)] = written


def load_result(memory: EngineMemory) -> LearnResult | None:
    """The last result; None if there is none, or if it is just being replaced."""
    start, capacity = memory.sizes["result_offset"], memory.sizes["result_capacity"]
    area = bytes(memory.buffer("control")[start : start + capacity])
    length, checksum = _HEADER.unpack_from(area)
    body = area[_HEADER.size : _HEADER.size + length]
    if len(body) != length or length == 0 or zlib.crc32(body) != checksum:
        return None
    values = msgpack.unpackb(body)
    heads = tuple(HeadResult(*head) for head in values.pop("heads"))
    return LearnResult(heads=heads, **values)
