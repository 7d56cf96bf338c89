"""pyzmq: PUSH sockets connected to one PULL socket over ipc (a Unix stream socket)."""

# The benchmarks must also type-check where the package is not installed.
# mypy: disable-error-code="import-not-found"

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .base import IDLE_WAIT_SECONDS, BytesProducer, Channel, Transport


class ZeroMQ(Transport):
    """PUSH to PULL, one frame a record.

    Chosen: bytes with `copy=True`, because below 64 KB pyzmq's zero copy costs more than the
    copy; the library's default high water mark on both ends, so that a producer blocks instead
    of filling memory (five times as much halved the throughput of eight producers); one blocking
    `recv` a record with RCVTIMEO, which was as fast as batches that end in an exception. As with
    multiprocessing.Queue, a put ends before the work does: a thread of the library writes to the
    socket later.
    """

    name = "pyzmq PUSH/PULL"
    package = "zmq"

    def __init__(self, high_water_mark: int = 1_000) -> None:
        self.high_water_mark = high_water_mark

    @contextmanager
    def open(self, producers: int) -> Iterator[Channel]:
        """Choose an address in a directory of its own."""
        with TemporaryDirectory(prefix="transport_") as folder:
            yield ZeroMQChannel(f"ipc://{Path(folder) / 'socket'}", self.high_water_mark)


@dataclass(frozen=True)
class ZeroMQChannel:
    """Where the consumer binds, and how many records each end may hold."""

    address: str
    high_water_mark: int

    def producer(self, index: int) -> "ZeroMQProducer":
        """Become a producer with a connection of its own."""
        return ZeroMQProducer(self.address, self.high_water_mark)

    def consumer(self) -> "ZeroMQConsumer":
        """Become the consumer."""
        return ZeroMQConsumer(self.address, self.high_water_mark)


class ZeroMQProducer(BytesProducer):
    """Sends without a timeout."""

    def __init__(self, address: str, high_water_mark: int) -> None:
        import zmq

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, high_water_mark)
        self._socket.connect(address)

    def put(self, payload: bytes) -> bool:
        """Block until the queue to the library's thread has room."""
        self._socket.send(payload)
        return True

    def close(self) -> None:
        """Wait until the library has sent what it still holds."""
        self._socket.close()
        self._context.term()


class ZeroMQConsumer:
    """Receives one frame a call, with the timeout set once on the socket."""

    def __init__(self, address: str, high_water_mark: int) -> None:
        import zmq

        self._would_block = zmq.Again
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, high_water_mark)
        self._socket.setsockopt(zmq.RCVTIMEO, int(IDLE_WAIT_SECONDS * 1_000))
        self._socket.bind(address)

    def receive(self) -> int:
        """Receive one record."""
        try:
            self._socket.recv()
        except self._would_block:
            return 0
        return 1

    def close(self) -> None:
        """Close the socket and its thread."""
        self._socket.close()
        self._context.term()
