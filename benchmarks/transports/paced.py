"""Paced: one producer puts 1,000 records a second, and each record's latency is taken.

The producer keeps the time at which it began each put, the consumer the time at which it had
each record. Every transport keeps the order of one producer's records, so the i-th stamp of the
one belongs to the i-th of the other, and nothing travels inside the record: a transport whose
consumer hands back only a count, as a learner does, is measured like all others.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .base import Consumer, Producer, Transport
from .processes import (
    WARM_UP_NANOSECONDS,
    MeasurementError,
    Schedule,
    measure_once,
    remaining_batches,
    sleep_until,
)

if TYPE_CHECKING:
    from .processes import Pipe

RECORDS_PER_SECOND = 1_000
NANOSECONDS_PER_RECORD = 1_000_000_000 // RECORDS_PER_SECOND


@dataclass(frozen=True)
class PacedFigures:
    """What one paced measurement came to."""

    larger_is_better: ClassVar[bool] = False

    median_microseconds: float
    p99_microseconds: float
    samples: int

    @property
    def headline(self) -> float:
        """The figure by which transports are compared."""
        return self.median_microseconds


@dataclass(frozen=True)
class PutStamps:
    """When each put began, in nanoseconds of the monotonic clock."""

    stamps: list[int]

    @property
    def accepted(self) -> int:
        """Every record is put until it is accepted."""
        return len(self.stamps)


def measure_paced(transport: Transport, seconds: float) -> PacedFigures:
    """Measure the time from the beginning of a put until the consumer has the record."""
    with transport.open(producers=1) as channel:
        (puts,), arrivals = measure_once(channel, 1, put_at_pace, stamp_arrivals, seconds)
    if len(arrivals) != puts.accepted:
        raise MeasurementError(f"{puts.accepted} records were put but {len(arrivals)} arrived")
    warm_up = WARM_UP_NANOSECONDS // NANOSECONDS_PER_RECORD
    latencies = (np.array(arrivals) - np.array(puts.stamps))[warm_up:] / 1_000
    median, p99 = np.percentile(latencies, [50, 99])
    return PacedFigures(float(median), float(p99), len(latencies))


def put_at_pace(producer: Producer, payloads: Iterator[Any], schedule: Schedule) -> PutStamps:
    """Put one record each time that its turn comes, as long as it takes to have it accepted."""
    turns = range(schedule.warm_up_from, schedule.end, NANOSECONDS_PER_RECORD)
    stamps = []
    for turn, payload in zip(turns, payloads, strict=False):
        sleep_until(turn)
        stamps.append(time.monotonic_ns())
        while not producer.put(payload):
            os.sched_yield()
    return PutStamps(stamps)


def stamp_arrivals(consumer: Consumer, schedule: Schedule, pipe: "Pipe") -> list[int]:
    """Receive everything, and stamp each record of a batch with the time of the batch."""
    arrivals: list[int] = []
    for batch in remaining_batches(consumer, pipe, received=0):
        now = time.monotonic_ns()
        arrivals.extend([now] * batch)
    return arrivals
