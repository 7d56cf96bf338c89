"""faster-fifo: one circular buffer in shared memory, guarded by a mutex."""

# The benchmarks must also type-check where the package is missing or has no types.
# mypy: disable-error-code="import-not-found, import-untyped"

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty
from typing import Any

from .base import IDLE_WAIT_SECONDS, RECORD_BYTES, BytesProducer, Channel, Transport

STORED_RECORD_BYTES = RECORD_BYTES + 8
"""faster-fifo stores a size_t in front of every message."""

BATCH_RECORDS = 64
"""How many records the consumer takes at most while it holds the mutex."""

PUT_TIMEOUT_SECONDS = 60.0
"""Longer than any measurement, so that a put blocks instead of raising Full."""


def keep_bytes(payload: bytes) -> bytes:
    """Serialise by doing nothing: the payload is bytes already, and pickling it would only cost."""
    return payload


class FasterFifo(Transport):
    """A queue of bytes that the consumer empties in batches.

    Chosen: no pickle on either side; `get_many`, its own recommendation, of 64 records at most,
    because it holds the mutex while it copies and wakes one waiting producer only; a message
    buffer that never has to grow; one `put` a record, because a router has one at a time. The
    queue has about the library's default size of 1 MB: a larger one gained nothing with few
    producers, and 31 MB lost up to a third with eight, since it leaves the cache.
    """

    name = "faster-fifo"
    package = "faster_fifo"

    def __init__(self, capacity_records: int = 320) -> None:
        self.capacity_bytes = capacity_records * STORED_RECORD_BYTES

    @contextmanager
    def open(self, producers: int) -> Iterator[Channel]:
        """Make the queue; its anonymous shared memory goes away with it."""
        import faster_fifo

        queue = faster_fifo.Queue(self.capacity_bytes, loads=bytes, dumps=keep_bytes)
        yield FifoChannel(queue)


@dataclass(frozen=True)
class FifoChannel:
    """The queue itself: it may be pickled on its way to a child process."""

    queue: Any

    def producer(self, index: int) -> "FifoProducer":
        """Become a producer; all of them share one buffer and its mutex."""
        return FifoProducer(self.queue)

    def consumer(self) -> "FifoConsumer":
        """Become the consumer."""
        return FifoConsumer(self.queue)


class FifoProducer(BytesProducer):
    """Puts one record a call."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def put(self, payload: bytes) -> bool:
        """Block until there is room."""
        self._queue.put(payload, timeout=PUT_TIMEOUT_SECONDS)
        return True

    def close(self) -> None:
        """Do nothing: what was put lies in shared memory already."""


class FifoConsumer:
    """Takes a batch with one call."""

    def __init__(self, queue: Any) -> None:
        queue.reallocate_msg_buffer(BATCH_RECORDS * STORED_RECORD_BYTES)
        self._queue = queue

    def receive(self) -> int:
        """Get a batch."""
        try:
            batch = self._queue.get_many(
                timeout=IDLE_WAIT_SECONDS, max_messages_to_get=BATCH_RECORDS
            )
        except Empty:
            return 0
        return len(batch)

    def close(self) -> None:
        """Do nothing: the parent owns the queue."""
