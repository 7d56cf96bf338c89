"""The transports that `benchmarks/transport.py` measures, one to a file, and how it does so."""

from .base import Transport
from .faster_fifo_queue import FasterFifo
from .multiprocessing_queue import MultiprocessingQueue
from .sona_lanes import SonaLanes
from .unix_datagram import UnixDatagram
from .zeromq_push_pull import ZeroMQ

ALL_TRANSPORTS: tuple[Transport, ...] = (
    SonaLanes(),
    FasterFifo(),
    ZeroMQ(),
    UnixDatagram(),
    MultiprocessingQueue(),
)
"""Ours first, then the peers."""
