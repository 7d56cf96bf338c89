"""Fresh processes for one measurement: one consumer, some producers, one common start.

The parent starts the consumer, waits until it is ready, then starts the producers. When all are
ready it tells them the same `Schedule` on the machine's monotonic clock, which all processes
share, so no barrier has to wake anybody. Afterwards it collects what each producer's puts came
to, and tells the consumer how many records it must have received in the end.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .base import Channel, Consumer, Producer, make_records

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    Pipe = Connection[Any, Any]

RECORDS_PER_PRODUCER = 64
"""How many different records a producer puts in turn: 200 KB of them."""

START_DELAY_NANOSECONDS = 50_000_000
WARM_UP_NANOSECONDS = 300_000_000
SILENCE_NANOSECONDS = 1_000_000_000
"""After so long without a record, what has not come is lost."""

ANSWER_TIMEOUT_SECONDS = 60.0
"""How long a child may take for an answer, beyond the time that it measures."""

LEAVE_TIMEOUT_SECONDS = 5.0
"""How long a child may take to close its end after it has answered."""


class MeasurementError(Exception):
    """A child process ended, or fell silent, before it had answered."""


@dataclass(frozen=True)
class Schedule:
    """When a measurement happens, in nanoseconds of the monotonic clock."""

    warm_up_from: int
    measure_from: int
    end: int

    @classmethod
    def starting_soon(cls, seconds: float) -> "Schedule":
        """Leave the children time to hear of it, and to warm up."""
        warm_up_from = time.monotonic_ns() + START_DELAY_NANOSECONDS
        measure_from = warm_up_from + WARM_UP_NANOSECONDS
        return cls(warm_up_from, measure_from, measure_from + int(seconds * 1e9))


class Puts(Protocol):
    """What every producer reports, whatever else it measured."""

    @property
    def accepted(self) -> int:
        """How many of its records were accepted from first to last, warm-up included."""
        ...


PutsType = TypeVar("PutsType", bound=Puts)
ReceiptsType = TypeVar("ReceiptsType")

Produce = Callable[[Producer, Iterator[Any], Schedule], PutsType]
"""The work of one producer: its end of the channel, payloads without end, when."""

Consume = Callable[[Consumer, Schedule, "Pipe"], ReceiptsType]
"""The work of the consumer: its end of the channel, when, and the pipe that
`remaining_batches` needs."""


def measure_once(
    channel: Channel,
    producers: int,
    produce: Produce[PutsType],
    consume: Consume[ReceiptsType],
    seconds: float,
) -> tuple[list[PutsType], ReceiptsType]:
    """Run one measurement in fresh processes and return what its producers and consumer saw."""
    patience = seconds + ANSWER_TIMEOUT_SECONDS
    with ExitStack() as stack:
        consumer_pipe = start_child(stack, consume_in_child, channel, consume)
        expect_answer(consumer_pipe, patience)
        producer_pipes = [
            start_child(stack, produce_in_child, channel, index, produce)
            for index in range(producers)
        ]
        for pipe in producer_pipes:
            expect_answer(pipe, patience)
        schedule = Schedule.starting_soon(seconds)
        for pipe in (consumer_pipe, *producer_pipes):
            pipe.send(schedule)
        puts: list[PutsType] = [expect_answer(pipe, patience) for pipe in producer_pipes]
        consumer_pipe.send(sum(report.accepted for report in puts))
        receipts: ReceiptsType = expect_answer(consumer_pipe, patience)
        return puts, receipts


def start_child(stack: ExitStack, target: Callable[..., None], *arguments: Any) -> "Pipe":
    """Start one child, which `stack` will end, and return the pipe that leads to it."""
    context = get_context("spawn")
    pipe, childs_end = context.Pipe()
    stack.enter_context(pipe)
    process = context.Process(target=target, args=(*arguments, childs_end), daemon=True)
    process.start()
    childs_end.close()
    stack.push(partial(end_child, process))
    return pipe


def end_child(process: BaseProcess, failure: type[BaseException] | None, *_: Any) -> None:
    """Let a child that has answered leave by itself; after a failure nobody waits for it."""
    if failure is None:
        process.join(LEAVE_TIMEOUT_SECONDS)
    process.kill()
    process.join()


def expect_answer(pipe: "Pipe", patience: float) -> Any:
    """Receive a child's next message, or say that none came."""
    if not pipe.poll(patience):
        raise MeasurementError(f"a child process did not answer within {patience:.0f} s")
    try:
        return pipe.recv()
    except EOFError:
        raise MeasurementError("a child process ended before it had answered") from None


def produce_in_child(
    channel: Channel, index: int, produce: Produce[PutsType], pipe: "Pipe"
) -> None:
    """Be a producer process from beginning to end."""
    with closing(channel.producer(index)) as producer:
        records = make_records(index, RECORDS_PER_PRODUCER)
        payloads = cycle([producer.prepare(record) for record in records])
        pipe.send("ready")
        pipe.send(produce(producer, payloads, pipe.recv()))


def consume_in_child(channel: Channel, consume: Consume[ReceiptsType], pipe: "Pipe") -> None:
    """Be the consumer process from beginning to end."""
    with closing(channel.consumer()) as consumer:
        pipe.send("ready")
        pipe.send(consume(consumer, pipe.recv(), pipe))


def remaining_batches(consumer: Consumer, pipe: "Pipe", received: int) -> Iterator[int]:
    """Receive, batch by batch, until every accepted record has come or long silence says no.

    How many there must be is known only after the last producer has stopped, so the pipe is
    looked at whenever the transport has nothing to give.
    """
    expected: int | None = None
    last_receipt = time.monotonic_ns()
    while expected is None or received < expected:
        batch = consumer.receive()
        if batch:
            received += batch
            yield batch
            last_receipt = time.monotonic_ns()
        elif expected is None:
            if pipe.poll():
                expected = pipe.recv()
                last_receipt = time.monotonic_ns()
        elif time.monotonic_ns() - last_receipt > SILENCE_NANOSECONDS:
            return


def sleep_until(nanoseconds: int) -> None:
    """Sleep until the monotonic clock shows that much."""
    time.sleep(max(0, nanoseconds - time.monotonic_ns()) / 1e9)
