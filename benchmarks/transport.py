"""Measure how fast records of a router's size move from many processes to one.

Measured for `sona_shm` and for what one would use instead: faster-fifo, pyzmq, Unix datagram
sockets and multiprocessing.Queue. A record is 3,136 bytes: an embedding and one step of
activations, float32 at dimension 384, and a small header. Two modes:

saturated
    1, 2, 4 and 8 producer processes put as fast as they can into one consumer process. Reported:
    records per second that the consumer received, the mean cost of one accepted put, the
    attempts that were refused because there was no room, and what was accepted but never came.
paced
    One producer puts 1,000 records a second. Reported: median and 99th percentile of the time
    from the beginning of a put until the consumer has the record.

Every measurement has fresh processes and a fresh channel, and runs apart from all others. How
each transport is used, and why so, stands in the docstring of its class in `transports/`. What
the figures do not say is printed above the tables.

    python benchmarks/transport.py [--json] [--seconds S] [--producers 1,2,4,8] [--quick]

Exit code 0, or 1 when a measurement failed; a transport that is not installed is no failure.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial

from rich.console import Console
from transports import ALL_TRANSPORTS
from transports.base import RECORD_BYTES, Transport
from transports.paced import measure_paced
from transports.processes import MeasurementError
from transports.report import CAVEATS, describe_machine, print_page
from transports.results import Figures, Mode, Row, with_ratios
from transports.saturated import measure_saturated

DEFAULT_SECONDS = 2.0
DEFAULT_PRODUCERS = [1, 2, 4, 8]
QUICK_SECONDS = 0.5
QUICK_PRODUCERS = [1, 2]


def main() -> int:
    """Measure everything that is installed and print one page, or one JSON object."""
    arguments = parse_arguments()
    machine = describe_machine()
    progress = Console(stderr=True)
    rows = []
    with progress.status("starting") as status:
        for mode, producers, transport in measurements(arguments.producers):
            status.update(f"{mode}, {producers} producers, {transport.name}")
            rows.append(measure(mode, producers, transport, arguments.seconds))
    rows = with_ratios(rows)
    if arguments.json:
        page = {
            "machine": machine,
            "record_bytes": RECORD_BYTES,
            "seconds": arguments.seconds,
            "caveats": CAVEATS,
            "rows": [row.as_json() for row in rows],
        }
        print(json.dumps(page, indent=2))
    else:
        print_page(Console(), machine, rows)
    return int(any(row.status == "failed" for row in rows))


def parse_arguments() -> argparse.Namespace:
    """Read the command line; --quick changes only what is not given."""
    parser = argparse.ArgumentParser(description="Measure transports between processes.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=positive_seconds, help="measured time of each run")
    parser.add_argument("--producers", type=producer_counts, help="for example 1,2,4,8")
    parser.add_argument("--quick", action="store_true", help="0.5 s, 1 and 2 producers")
    arguments = parser.parse_args()
    if arguments.seconds is None:
        arguments.seconds = QUICK_SECONDS if arguments.quick else DEFAULT_SECONDS
    if arguments.producers is None:
        arguments.producers = QUICK_PRODUCERS if arguments.quick else DEFAULT_PRODUCERS
    return arguments


def positive_seconds(text: str) -> float:
    """Read a positive number of seconds."""
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return seconds


def producer_counts(text: str) -> list[int]:
    """Read positive numbers separated by commas."""
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a list of positive numbers")
    return counts


def measurements(producer_counts: list[int]) -> Iterator[tuple[Mode, int, Transport]]:
    """List what is to be measured, in the order of the tables."""
    for producers in producer_counts:
        for transport in ALL_TRANSPORTS:
            yield "saturated", producers, transport
    for transport in ALL_TRANSPORTS:
        yield "paced", 1, transport


def measure(mode: Mode, producers: int, transport: Transport, seconds: float) -> Row:
    """Measure one transport once, unless it is not installed."""
    row = partial(Row, mode, transport.name, transport.is_ours, producers)
    missing = transport.why_missing()
    if missing is not None:
        return row("not installed", reason=missing)
    try:
        figures: Figures = (
            measure_saturated(transport, producers, seconds)
            if mode == "saturated"
            else measure_paced(transport, seconds)
        )
    except MeasurementError as failure:
        return row("failed", reason=str(failure))
    return row("measured", figures)


if __name__ == "__main__":
    sys.exit(main())
