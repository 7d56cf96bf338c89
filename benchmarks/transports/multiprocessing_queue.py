"""multiprocessing.Queue: the peer that everybody has."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.queues import Queue
from queue import Empty

from .base import IDLE_WAIT_SECONDS, BytesProducer, Channel, Transport


class MultiprocessingQueue(Transport):
    """A bounded queue of bytes objects.

    Chosen: bytes, which pickle fastest; a bound, because an unbounded queue only moves the
    waiting into memory that grows without end. `put` returns when the record lies in a list of
    its own process: a feeder thread pickles it and writes it to the pipe later. Its put cost is
    therefore not the whole cost, and its records per second tell more.
    """

    name = "multiprocessing.Queue"
    package = "multiprocessing"

    def __init__(self, capacity_records: int = 1_000) -> None:
        self.capacity_records = capacity_records

    @contextmanager
    def open(self, producers: int) -> Iterator[Channel]:
        """Make the queue; its semaphores and its pipe go away with it."""
        queue: Queue[bytes] = get_context("spawn").Queue(self.capacity_records)
        yield QueueChannel(queue)
        queue.close()


@dataclass(frozen=True)
class QueueChannel:
    """The queue itself: it may be pickled on its way to a child process."""

    queue: "Queue[bytes]"

    def producer(self, index: int) -> "QueueProducer":
        """Become a producer; all of them share one pipe and its lock."""
        return QueueProducer(self.queue)

    def consumer(self) -> "QueueConsumer":
        """Become the consumer."""
        return QueueConsumer(self.queue)


class QueueProducer(BytesProducer):
    """Puts without a timeout, the cheapest form of the blocking call."""

    def __init__(self, queue: "Queue[bytes]") -> None:
        self._queue = queue

    def put(self, payload: bytes) -> bool:
        """Block until there is room."""
        self._queue.put(payload)
        return True

    def close(self) -> None:
        """Wait for the feeder thread to write what it still holds."""
        self._queue.close()
        self._queue.join_thread()


class QueueConsumer:
    """Gets without a timeout whenever a record is known to be coming.

    A `get` with a timeout polls the pipe through a selector made for that call, which more than
    halves the throughput. So the timeout is kept for the time when the queue looks empty.
    """

    def __init__(self, queue: "Queue[bytes]") -> None:
        self._queue = queue

    def receive(self) -> int:
        """Get one record."""
        if self._queue.qsize():
            self._queue.get()
            return 1
        try:
            self._queue.get(timeout=IDLE_WAIT_SECONDS)
        except Empty:
            return 0
        return 1

    def close(self) -> None:
        """Close the reading end of the pipe."""
        self._queue.close()
