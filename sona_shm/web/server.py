"""Serves the pages on one address until a signal comes."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
from types import FrameType
from typing import Final

import uvicorn

from sona_shm.watch import Watch
from sona_shm.web.app import create_app
from sona_shm.web.sampler import Sampler

logger = logging.getLogger("sona_shm.web")
#: After a signal, answers that are not finished by then are cut off.
_GRACE_SECONDS: Final = 3
_BACKLOG: Final = 128


class _Server(uvicorn.Server):
    """Lets those who follow events go when a signal comes: they would never end by themselves."""

    def __init__(self, config: uvicorn.Config, sampler: Sampler, stop: threading.Event) -> None:
        super().__init__(config)
        self._sampler = sampler
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # By now signals come to this server; one that came before is not forgotten.
        self.should_exit = self.should_exit or self._stop.is_set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._sampler.end()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises OSError, or UnicodeError for a name of no host."""
    family, *_, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address[:2], family=family, backlog=_BACKLOG)


def serve(name: str, host: str, listener: socket.socket, stop: threading.Event) -> None:
    """Serve the monitor of an engine on a listening socket until SIGTERM or SIGINT.

    Parameters
    ----------
    name : str
        Of the engine, which may come and go.
    host : str
        As the user gave it; requests to a loopback address must ask for one.
    listener : socket.socket
    stop : threading.Event
        Set by a signal that came before the server listened to them itself.

    Raises
    ------
    ConfigError
        If no engine can be called so.
    """
    watch = Watch(name)
    with contextlib.closing(watch), listener:
        address, port = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        logger.info("monitor of %s on http://%s:%d", name, shown, port)
        if not (local := ipaddress.ip_address(address).is_loopback):
            logger.warning(
                "%s is not a loopback address, and there is no authentication: whoever reaches "
                "port %d sees everything about %s",
                address,
                port,
                name,
            )
        hosts = ["localhost", "127.0.0.1", "[::1]", host, address] if local else ["*"]
        sampler = Sampler(watch)
        config = uvicorn.Config(
            create_app(sampler, hosts),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        _Server(config, sampler, stop).run([listener])
