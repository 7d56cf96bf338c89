"""Saturated: every producer puts as fast as it can, and the consumer counts what arrives."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .base import Consumer, Producer, Transport
from .processes import Schedule, measure_once, remaining_batches, sleep_until

if TYPE_CHECKING:
    from .processes import Pipe


REFUSAL_PAUSE_SECONDS = 1e-3
"""How long a refused producer sleeps: like a blocked one it leaves the processor to the reader."""


@dataclass(frozen=True)
class SaturatedFigures:
    """What one saturated measurement came to."""

    larger_is_better: ClassVar[bool] = True

    records_per_second: float
    put_nanoseconds: float
    refused_attempts: int
    lost: int

    @property
    def headline(self) -> float:
        """The figure by which transports are compared."""
        return self.records_per_second


@dataclass(frozen=True)
class PutTally:
    """What some puts of one producer came to."""

    accepted: int
    refused: int
    nanoseconds: int


@dataclass(frozen=True)
class ProducerTally:
    """A producer's puts, those of the warm-up apart."""

    warm_up: PutTally
    measured: PutTally

    @property
    def accepted(self) -> int:
        """All that must arrive."""
        return self.warm_up.accepted + self.measured.accepted


@dataclass(frozen=True)
class ConsumerTally:
    """What arrived inside the measured time, how long that was, and what arrived in all."""

    measured: int
    nanoseconds: int
    total: int


def measure_saturated(transport: Transport, producers: int, seconds: float) -> SaturatedFigures:
    """Measure throughput, and the cost of a put, with so many producers."""
    with transport.open(producers) as channel:
        puts, receipts = measure_once(
            channel, producers, put_without_pause, receive_without_pause, seconds
        )
    measured = [tally.measured for tally in puts]
    return SaturatedFigures(
        records_per_second=receipts.measured / receipts.nanoseconds * 1e9,
        put_nanoseconds=sum(tally.nanoseconds for tally in measured)
        / max(1, sum(tally.accepted for tally in measured)),
        refused_attempts=sum(tally.refused for tally in measured),
        lost=sum(tally.accepted for tally in puts) - receipts.total,
    )


def put_without_pause(
    producer: Producer, payloads: Iterator[Any], schedule: Schedule
) -> ProducerTally:
    """Put from the start of the warm-up to the end."""
    sleep_until(schedule.warm_up_from)
    warm_up = put_until(schedule.measure_from, producer, payloads)
    return ProducerTally(warm_up, put_until(schedule.end, producer, payloads))


def put_until(deadline: int, producer: Producer, payloads: Iterator[Any]) -> PutTally:
    """Put until the deadline, timing each put; after a refusal, sleep a moment before the next.

    The cost is of accepted puts only and includes one reading of the clock; a put that blocks is
    as expensive as its wait.
    """
    clock = time.monotonic_ns
    put = producer.put
    accepted = refused = nanoseconds = 0
    for payload in payloads:
        before = clock()
        if before >= deadline:
            break
        if put(payload):
            nanoseconds += clock() - before
            accepted += 1
        else:
            refused += 1
            time.sleep(REFUSAL_PAUSE_SECONDS)
    return PutTally(accepted, refused, nanoseconds)


def receive_without_pause(consumer: Consumer, schedule: Schedule, pipe: "Pipe") -> ConsumerTally:
    """Receive throughout, and afterwards until everything accepted has come."""
    warm_up = receive_until(schedule.measure_from, consumer)
    started = time.monotonic_ns()
    measured = receive_until(schedule.end, consumer)
    nanoseconds = time.monotonic_ns() - started
    rest = sum(remaining_batches(consumer, pipe, warm_up + measured))
    return ConsumerTally(measured, nanoseconds, warm_up + measured + rest)


def receive_until(deadline: int, consumer: Consumer) -> int:
    """Receive until the deadline and return how many records came."""
    clock = time.monotonic_ns
    receive = consumer.receive
    received = 0
    while clock() < deadline:
        received += receive()
    return received
