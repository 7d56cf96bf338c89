"""What is wrong with an engine, by its statistics, and what to do about it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Final

from sona_shm.config import SonaConfig
from sona_shm.monitor.losses import LOSSES, SEE_LOG, STRAY_WRITES
from sona_shm.monitor.stats import EngineStats

#: A learner that is alive publishes within milliseconds; this long without means that it hangs.
_STALLED_SECONDS: Final = 10.0
_NEARLY: Final = 0.9
#: Losses of single records below this share happen; above, a capacity is too small.
_FEW: Final = 1e-3


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something worth telling.

    Attributes
    ----------
    about : str
        An engine's name, a file, or the host.
    text : str
    remedy : str
        What to do: a command to paste, where there is one.
    problem : bool
        Whether something is wrong; else it is a note.

    Examples
    --------
    >>> Finding("router", "nobody uses it", "sona destroy router", problem=False).problem
    False
    """

    about: str
    text: str
    remedy: str
    problem: bool


def counted(count: int, thing: str) -> str:
    """A number of things, for people."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def liveness(stats: EngineStats) -> Iterator[Finding]:
    """Whether what workers record is learned."""
    name, backlog = stats.name, sum(lane.backlog_bytes for lane in stats.lanes)
    workers = sum(lane.alive for lane in stats.lanes)
    if not stats.learner_alive and (workers or backlog):
        text = f"{counted(workers, 'living worker')}, {backlog:,} bytes wait, and nobody learns"
        yield Finding(name, text, f"sona learner {name}", problem=True)
    quiet = stats.seconds_since_publish
    if stats.learner_alive and backlog and (quiet is None or quiet > _STALLED_SECONDS):
        since = "never" if quiet is None else f"{quiet:,.0f} s ago"
        pid = stats.learner_pid
        text = f"learner {pid} lives, {backlog:,} bytes wait, and it published last {since}"
        yield Finding(name, text, f"grep State /proc/{pid}/status; kill {pid}", problem=True)


def diagnose(stats: EngineStats, config: SonaConfig) -> list[Finding]:
    """All that the statistics of one engine tell."""
    return [
        *liveness(stats),
        *_lanes(stats, config),
        *_losses(stats, config),
        *_errors(stats),
    ]


def _doubled(name: str, setting: str, config: SonaConfig) -> str:
    """The commands that give an engine twice as much of something."""
    now = config.route_capacity() if setting == "max_routes" else getattr(config, setting)
    return (
        f"sona save {name} FILE, stop its processes, "
        f"sona restore {name} FILE --replace --set {setting}={2 * now}"
    )


def _lanes(stats: EngineStats, config: SonaConfig) -> Iterator[Finding]:
    name, workers = stats.name, config.max_workers
    alive = sum(lane.alive for lane in stats.lanes)
    if alive >= _NEARLY * workers > 1:
        text = f"{alive} of {workers} lanes have a living worker; beyond, none can record"
        yield Finding(name, text, _doubled(name, "max_workers", config), problem=alive == workers)
    room = config.geometry().lane_bytes
    for lane in stats.lanes:
        if lane.quarantined:
            text = f"lane {lane.index} (process {lane.pid}) holds what cannot be, and is refused"
            yield Finding(name, f"{text}; its next record heals it", STRAY_WRITES, problem=True)
        elif lane.backlog_bytes > _NEARLY * room:
            text = f"lane {lane.index} (process {lane.pid}) is full; more records are refused"
            yield Finding(name, text, f"top -p {stats.learner_pid}", problem=True)


def _errors(stats: EngineStats) -> Iterator[Finding]:
    """Notes only: what an error has cost stands in a counter of its own."""
    now = time.time_ns()
    for noted in stats.errors:
        ago = max(0, now - noted.last_ns) / 1e9
        text = f"{noted.where}: {noted.what} ({noted.count:,} times, last {ago:,.0f} s ago)"
        yield Finding(
            stats.name, text, f"it came last in process {noted.pid}; see its log", problem=False
        )
    if stats.errors_unlisted:
        text = f"{counted(stats.errors_unlisted, 'error')} of kinds for which there is no room"
        yield Finding(stats.name, text, SEE_LOG, problem=False)


def _losses(stats: EngineStats, config: SonaConfig) -> Iterator[Finding]:
    name = stats.name
    for counter, count in stats.losses.items():
        loss = LOSSES[counter]
        if count:
            yield Finding(
                name,
                f"{counter} {count:,}: {loss.meaning}",
                loss.remedy.format(name) or _doubled(name, loss.setting, config),
                problem=loss.is_damage or count > _FEW * stats.recorded,
            )
