"""``sona size [FILE]``: what an engine would take in ``/dev/shm``, before it is made."""

from __future__ import annotations

import argparse
import json
import math
import os
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from sona_shm.cli.arguments import add_settings, per_second
from sona_shm.config import SonaConfig
from sona_shm.monitor.surroundings import DOCKER_BYTES
from sona_shm.shm.layout import RECORD_HEADER_BYTES, typical_record_bytes
from sona_shm.shm.names import SHARED_MEMORY

_MEBIBYTE: Final = 2**20
#: Room beside the engine: a second, smaller one to try something, what other libraries put there.
_HEADROOM: Final = 1.25


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "size",
        help="tell what an engine takes in shared memory, before it is made",
        description="Tell what an engine of this configuration takes in /dev/shm, part by part, "
        "and whether there is room for it on this host. Makes nothing. With --rate: how long "
        "decisions wait for their feedback, and when something is lost without a learner.",
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="TOML or JSON configuration; default: the defaults"
    )
    add_settings(parser, "max_workers=64")
    parser.add_argument(
        "--rate", metavar="N", type=per_second, help="requests a second that each worker serves"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Calculate and print."""
    config = SonaConfig() if options.file is None else SonaConfig.from_file(options.file)
    config = SonaConfig.from_mapping(config.to_mapping() | dict(options.settings))
    room = os.statvfs(SHARED_MEMORY)
    free = room.f_bavail * room.f_frsize
    result: dict[str, Any] = {
        "bytes": config.nbytes(),
        "parts": parts(config),
        "free": free,
        "fits": config.nbytes() <= free,
        "shm_size_mib": _shm_size(config.nbytes()) // _MEBIBYTE,
    }
    if options.rate is not None:
        result["seconds"] = seconds_at(config, options.rate)
    if options.json:
        print(json.dumps(result))
    else:
        _print(config, result, options.rate)
    return 0


def parts(config: SonaConfig) -> dict[str, int]:
    """Bytes of each part; together they are `SonaConfig.nbytes`.

    Examples
    --------
    >>> config = SonaConfig(hidden_dim=64)
    >>> sum(parts(config).values()) == config.nbytes()
    True
    """
    geometry = config.geometry()
    sizes, lanes = geometry.sizes(), geometry.max_workers
    return {
        "control": sizes["control_bytes"],
        "lane headers": sizes["lanes_offset"] + lanes * sizes["lane_ring_offset"],
        "lane rings": lanes * (sizes["lane_slots_offset"] - sizes["lane_ring_offset"]),
        "decision slots": lanes * (sizes["lane_stride"] - sizes["lane_slots_offset"]),
        "cell headers": sizes["buffers_offset"],
        "fast cell": sizes["slow_buffers_offset"] - sizes["buffers_offset"],
        "slow cell": sizes["reservoir_offset"] - sizes["slow_buffers_offset"],
        "reservoir": sizes["weights_bytes"] - sizes["reservoir_offset"],
    }


def seconds_at(config: SonaConfig, rate: float) -> dict[str, float]:
    """What capacities last at so many requests a second of one worker.

    Parameters
    ----------
    config : SonaConfig
    rate : float
        Requests a second, each one decision and one feedback, or one trajectory of one step.

    Returns
    -------
    dict of str to float
        Seconds: ``feedback_wait`` until a decision's slot is overwritten, by when a learner must
        have read its feedback; ``learner_away`` until the first outcome is lost because nobody
        learns, a slot's or for want of room in a lane; ``learner_away_trajectories`` until a lane
        is full of trajectories.

    Examples
    --------
    >>> seconds_at(SonaConfig(pending_decisions=1000), rate=10)["feedback_wait"]
    100.0
    """
    lane_bytes = config.geometry().lane_bytes
    feedbacks = min(config.pending_decisions, lane_bytes // RECORD_HEADER_BYTES)
    return {
        "feedback_wait": config.pending_decisions / rate,
        "learner_away": feedbacks / rate,
        "learner_away_trajectories": lane_bytes / typical_record_bytes(config.hidden_dim) / rate,
    }


def _shm_size(needed: int) -> int:
    """For ``docker run --shm-size``: with headroom, in steps of 16 MiB."""
    step = 16 * _MEBIBYTE
    return max(DOCKER_BYTES, math.ceil(needed * _HEADROOM / step) * step)


# ---- for people ----


def _print(config: SonaConfig, result: dict[str, Any], rate: float | None) -> None:
    console = Console()
    table = Table(
        title=f"dimension {config.hidden_dim}, {config.max_workers} workers, room for "
        f"{config.route_capacity()} routes",
        title_justify="left",
    )
    table.add_column("part")
    table.add_column("bytes", justify="right")
    table.add_column("set by")
    for part, count in result["parts"].items():
        table.add_row(part, f"{count:,}", _SET_BY[part])
    table.add_section()
    table.add_row("all", f"[bold]{result['bytes']:,}[/]")
    console.print(table)
    verdict = "it fits" if result["fits"] else "[bold]it does not fit[/]"
    console.print(f"{SHARED_MEMORY} has {result['free']:,} bytes free here: {verdict}")
    console.print(f"in a container: docker run --shm-size={result['shm_size_mib']}m")
    if rate is not None:
        _print_seconds(console, result["seconds"], rate)


_SET_BY: Final = {
    "control": "",
    "lane headers": "max_workers",
    "lane rings": "trajectory_capacity, hidden_dim",
    "decision slots": "max_workers, pending_decisions, hidden_dim",
    "cell headers": "",
    "fast cell": "max_routes, hidden_dim, pattern_clusters",
    "slow cell": "max_tasks, max_routes, hidden_dim, pattern_clusters",
    "reservoir": "reservoir, hidden_dim; none without routes",
}


def _print_seconds(console: Console, seconds: dict[str, float], rate: float) -> None:
    console.print(f"\nat {rate:g} requests a second in each worker:")
    console.print(
        f"  a decision waits {_duration(seconds['feedback_wait'])} for its feedback to be given "
        "and learned before its slot is overwritten (pending_decisions)"
    )
    console.print(
        f"  without a learner, outcomes are lost after {_duration(seconds['learner_away'])} "
        "(pending_decisions, trajectory_capacity), one-step trajectories after "
        f"{_duration(seconds['learner_away_trajectories'])} (trajectory_capacity)"
    )


def _duration(seconds: float) -> str:
    """Two digits of what a person thinks in.

    Examples
    --------
    >>> _duration(0.25), _duration(90), _duration(7200), _duration(172800)
    ('0.25 s', '90 s', '2 h', '2 days')
    """
    for unit, length, enough in (("days", 86400.0, 2.0), ("h", 3600.0, 2.0), ("min", 60.0, 2.0)):
        if seconds >= enough * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
