"""What every transport under measurement looks like, and the record that it carries.

A `Transport` lives in the parent process. Opening it yields a `Channel`: a picklable
description that the parent hands to each child, where it turns into one `Producer` or into the
only `Consumer`. So every transport pays its own set-up inside the process that uses it, and
none of them inherits anything from a fork.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np

HIDDEN_DIM = 384

IDLE_WAIT_SECONDS = 0.05
"""How long a consumer sleeps at most before it looks at the clock again."""

RECORD_TYPE = np.dtype(
    [
        ("producer", np.int64),
        ("sequence", np.int64),
        ("reserved", np.uint8, 48),
        ("embedding", np.float32, HIDDEN_DIM),
        ("activations", np.float32, HIDDEN_DIM),
    ]
)
"""One request of a router: a 64-byte header, an embedding, and one step of activations."""

RECORD_BYTES = RECORD_TYPE.itemsize


def make_records(producer: int, count: int) -> list[np.void]:
    """Make `count` different records, so that a producer does not put the same bytes for ever."""
    generator = np.random.default_rng(producer)
    records = np.zeros(count, RECORD_TYPE)
    records["producer"] = producer
    records["sequence"] = np.arange(count)
    records["embedding"] = generator.standard_normal((count, HIDDEN_DIM))
    records["activations"] = generator.standard_normal((count, HIDDEN_DIM))
    return list(records)


class Producer(Protocol):
    """The sending end, held by one producer process.

    A payload is whatever the transport likes best to be given: `bytes` for the peers, a finished
    trajectory for ours. It is prepared before the clock starts, so no transport is charged for
    building its message.
    """

    def prepare(self, record: np.void) -> Any:
        """Turn a record into the payload that `put` takes."""
        ...

    def put(self, payload: Any) -> bool:
        """Hand one payload over; False means that it was refused because there was no room."""
        ...

    def close(self) -> None:
        """Let go of the channel after everything accepted so far is safely on its way."""
        ...


class Consumer(Protocol):
    """The receiving end, held by the only consumer process."""

    def receive(self) -> int:
        """Receive what is there, waiting `IDLE_WAIT_SECONDS` at most; return how many came."""
        ...

    def close(self) -> None:
        """Let go of the channel."""
        ...


class BytesProducer:
    """The half of a peer's producer that all peers share: a payload is the record's bytes."""

    def prepare(self, record: np.void) -> bytes:
        """Copy the record out of numpy, which is the form that every peer takes as it is."""
        return record.tobytes()


class Channel(Protocol):
    """A picklable description of an open transport, made for the processes that use it."""

    def producer(self, index: int) -> Producer:
        """Become producer number `index` in the calling process."""
        ...

    def consumer(self) -> Consumer:
        """Become the consumer in the calling process."""
        ...


class Transport(ABC):
    """One way to move records between processes."""

    name: ClassVar[str]
    """What the tables call it."""

    package: ClassVar[str]
    """The module that must be importable for this transport to be measured."""

    is_ours: ClassVar[bool] = False
    """Whether this is the transport that the peers are compared with."""

    def why_missing(self) -> str | None:
        """Say why the transport cannot be measured here, or None if it can."""
        try:
            import_module(self.package)
        except ImportError as error:
            return str(error)
        return None

    @abstractmethod
    def open(self, producers: int) -> AbstractContextManager[Channel]:
        """Open a fresh channel for that many producers, and remove all of it at the end."""
