"""Unix datagram sockets: the kernel's own message queue, without any library."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from select import EPOLLIN, epoll
from socket import (
    AF_UNIX,
    SO_RCVBUF,
    SO_RCVTIMEO,
    SO_SNDBUF,
    SOCK_DGRAM,
    SOL_SOCKET,
    socket,
    socketpair,
)
from struct import pack

from .base import IDLE_WAIT_SECONDS, RECORD_BYTES, BytesProducer, Channel, Consumer, Transport

RECEIVES_PER_WAKE = 64
"""How often one socket is read before the others have their turn."""


class UnixDatagram(Transport):
    """A connected pair of datagram sockets for each producer.

    Chosen: a pair each instead of one bound socket for all. On a bound socket Linux lets only
    `net.unix.max_dgram_qlen` (10 by default) datagrams wait, whatever the buffers, and its
    producers contend for one queue; on a pair only the sender's SO_SNDBUF counts, which is made
    large. SO_RCVBUF is set as well, although Linux ignores it for this family.
    """

    name = "Unix datagram"
    package = "socket"

    def __init__(self, buffer_bytes: int = 1 << 20) -> None:
        self.buffer_bytes = buffer_bytes

    @contextmanager
    def open(self, producers: int) -> Iterator[Channel]:
        """Make the pairs; each child receives duplicates of their descriptors."""
        with ExitStack() as stack:
            sending: list[socket] = []
            receiving: list[socket] = []
            for _ in range(producers):
                sender, receiver = socketpair(AF_UNIX, SOCK_DGRAM)
                sending.append(stack.enter_context(sender))
                receiving.append(stack.enter_context(receiver))
                sender.setsockopt(SOL_SOCKET, SO_SNDBUF, self.buffer_bytes)
                receiver.setsockopt(SOL_SOCKET, SO_RCVBUF, self.buffer_bytes)
            yield DatagramChannel(sending, receiving)


@dataclass(frozen=True)
class DatagramChannel:
    """All pairs: sockets may be pickled on their way to a child process."""

    sending: list[socket]
    receiving: list[socket]

    def producer(self, index: int) -> "DatagramProducer":
        """Become the producer that owns pair number `index`."""
        return DatagramProducer(self.sending[index])

    def consumer(self) -> Consumer:
        """Become the consumer; a single socket needs no epoll."""
        if len(self.receiving) == 1:
            return OneSocketConsumer(self.receiving[0])
        return ManySocketsConsumer(self.receiving)


class DatagramProducer(BytesProducer):
    """Sends one datagram a record."""

    def __init__(self, sender: socket) -> None:
        self._socket = sender

    def put(self, payload: bytes) -> bool:
        """Block until the send buffer has room."""
        self._socket.send(payload)
        return True

    def close(self) -> None:
        """Close this process's descriptor; what was sent waits in the kernel."""
        self._socket.close()


class OneSocketConsumer:
    """Blocks in recv itself: the timeout lives in the kernel and costs no further system call."""

    def __init__(self, receiver: socket) -> None:
        receiver.setsockopt(
            SOL_SOCKET, SO_RCVTIMEO, pack("ll", 0, int(IDLE_WAIT_SECONDS * 1_000_000))
        )
        self._socket = receiver

    def receive(self) -> int:
        """Receive one record."""
        try:
            self._socket.recv(RECORD_BYTES)
        except BlockingIOError:
            return 0
        return 1

    def close(self) -> None:
        """Close this process's descriptor."""
        self._socket.close()


class ManySocketsConsumer:
    """Waits with epoll and reads a batch from each socket that has something."""

    def __init__(self, receiving: list[socket]) -> None:
        self._epoll = epoll()
        self._sockets = {receiver.fileno(): receiver for receiver in receiving}
        for descriptor, receiver in self._sockets.items():
            receiver.setblocking(False)
            self._epoll.register(descriptor, EPOLLIN)

    def receive(self) -> int:
        """Receive up to a batch from each socket that is readable."""
        received = 0
        for descriptor, _ in self._epoll.poll(IDLE_WAIT_SECONDS):
            receive = self._sockets[descriptor].recv
            try:
                for _ in range(RECEIVES_PER_WAKE):
                    receive(RECORD_BYTES)
                    received += 1
            except BlockingIOError:
                continue
        return received

    def close(self) -> None:
        """Close the epoll and this process's descriptors."""
        self._epoll.close()
        for receiver in self._sockets.values():
            receiver.close()
