"""``sona serve NAME``: metrics and a dashboard of one engine over HTTP."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from typing import Final

from sona_shm.cli import daemon
from sona_shm.cli.arguments import whole_number

_LARGEST_PORT: Final = 65535


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "serve",
        help="serve an engine's metrics and a dashboard over HTTP",
        description="Serve metrics for Prometheus (/metrics), health (/healthz), the state as JSON "
        "(/api/state) and a dashboard (/) of an engine, until stopped. Writes nothing to the "
        "engine, looks at it once a second however many clients ask, and goes on when it is "
        "destroyed, replaced or not there yet. Logs to standard error.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the engine")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (127.0.0.1); there is no authentication",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=9464,
        help="port to listen on (9464); 0 takes a free one, which the log names",
    )
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    number = whole_number(0)(text)
    if number > _LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{number} is above {_LARGEST_PORT}")
    return number


def run(options: argparse.Namespace) -> int:
    """Serve until a signal."""
    if any(find_spec(module) is None for module in ("prometheus_client", "starlette", "uvicorn")):
        print('sona: sona serve needs pip install "sona-shm[monitor]"', file=sys.stderr)
        return 1
    from sona_shm.web.server import listen, serve

    try:
        listener = listen(options.host, options.port)
    except (OSError, UnicodeError) as error:  # the latter from names that no host can have
        reason = error.strerror if isinstance(error, OSError) else error
        print(
            f"sona: cannot listen on {options.host} port {options.port}: {reason}; choose another "
            "--host or --port",
            file=sys.stderr,
        )
        return 1
    stop = daemon.begin(until_stdin_closes=False)
    serve(options.name, options.host, listener, stop)
    return 0
