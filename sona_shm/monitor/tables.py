"""What `EngineStats` say, drawn for people: one table a subject, the same in every command.

Red is kept for what needs a person.  Nothing here is wider than the console: names and labels
give way, figures do not.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from sona_shm.monitor.figures import age, bar, per_second, plain
from sona_shm.monitor.lines import LineColumn, LineTable
from sona_shm.monitor.losses import LOSSES
from sona_shm.monitor.rates import Rates
from sona_shm.monitor.stats import EngineStats, LaneStats, RouteStats

#: Columns by which lanes can be sorted, in the order in which they are shown.
LANE_COLUMNS: Final = ("lane", "pid", "recorded", "dropped", "decisions", "backlog")
_ALARM: Final = "bold red"
_BAR_COLOUR: Final = "blue"
_BAR_WIDTH: Final = 16


def everything(stats: EngineStats, rates: Rates | None = None) -> RenderableType:
    """All tables below each other, the most important first."""
    parts = (
        header(stats, rates),
        routes(stats),
        lanes(stats),
        losses(stats, rates),
        errors(stats),
        learned(stats),
        counters(stats),
    )
    blank = Text()
    return Group(*(line for part in parts if part is not None for line in (part, blank)))


def header(stats: EngineStats, rates: Rates | None = None) -> RenderableType:
    """The engine, who learns, how fresh the weights are, how fast all goes, what goes wrong."""
    grid = Table.grid(Column(style="dim", no_wrap=True), Column(), padding=(0, 2))
    task = f"task {stats.task + 1} of {stats.tasks}" if stats.tasks else "no task yet"
    living = sum(lane.alive for lane in stats.lanes)
    workers = "1 worker" if living == 1 else f"{living} workers"
    taken = f", {workers}, {decimal(stats.bytes)}"
    grid.add_row("engine", Text.assemble((plain(stats.name), "bold"), taken))
    grid.add_row("learner", _learner(stats))
    published = stats.seconds_since_publish
    freshness = "never published" if published is None else f"published {age(published)} ago"
    grid.add_row("weights", f"version {stats.version:,}, {freshness}; {task}")
    if rates is not None:
        grid.add_row("traffic", _traffic(rates))
    grid.add_row("losses", _losses_and_errors(stats, rates))
    return grid


def _learner(stats: EngineStats) -> Text:
    standby = "standby ready" if stats.standby_alive else "no standby"
    seconds = stats.learner_seconds
    if stats.learner_alive:
        since = "" if seconds is None else f" for {age(seconds)}"
        return Text(f"process {stats.learner_pid}, at work{since}; {standby}")
    former = f"the last was process {stats.learner_pid}" if stats.learner_terms else "never was one"
    remedy = (
        "the standby is about to take over"
        if stats.standby_alive
        else f"nothing is learned; start one: sona learner {plain(stats.name)}"
    )
    return Text(f"NONE ALIVE, {former}\n{remedy}", style=_ALARM)


def _traffic(rates: Rates) -> str:
    figures = (
        f"{per_second(rates.decisions)} decided",
        f"{per_second(rates.recorded)} recorded",
        f"{per_second(rates.outcomes_learned)} learned",
        "" if rates.mean_reward is None else f"reward {rates.mean_reward:.4f}",
    )
    return ", ".join(figure for figure in figures if figure)


def _losses_and_errors(stats: EngineStats, rates: Rates | None) -> Text:
    found = {name: count for name, count in stats.losses.items() if count}
    parts = []
    if found:
        of = next(iter(found)) if len(found) == 1 else f"of {len(found)} kinds"
        parts.append(f"{sum(found.values()):,} {of}")
    if stats.errors:
        kinds = "kind" if len(stats.errors) == 1 else "kinds"
        ago = age(_seconds_since(stats.errors[0].last_ns))
        parts.append(f"{len(stats.errors)} {kinds} of error, the last {ago} ago")
    alarm = rates is not None and rates.alarms
    return Text("; ".join(parts) or "none, and no errors", style=_ALARM if alarm else "")


# ---- traffic ----


def lanes(stats: EngineStats, order: str = LANE_COLUMNS[0], reverse: bool = False) -> LineTable:
    """Workers, sorted by one of `LANE_COLUMNS`; the retired row stays at the end."""
    mark = " ▼" if reverse else " ▲"
    columns = [LineColumn(title + mark * (title == order)) for title in LANE_COLUMNS]
    columns.insert(2, LineColumn("worker", is_name=True))
    in_order = sorted(stats.lanes, key=lambda lane: _lane_key(lane, order), reverse=reverse)
    rows: list[tuple[str | Text, ...]] = [
        (str(lane.index), str(lane.pid), _worker(lane), *_counts(lane)) for lane in in_order
    ]
    rows.append(("", "", Text("retired", style="dim"), *_counts(stats.retired)))
    return LineTable(columns, rows)


def _lane_key(lane: LaneStats, order: str) -> int:
    keys = {"lane": lane.index, "backlog": lane.backlog_bytes}
    return keys[order] if order in keys else int(getattr(lane, order))


def _worker(lane: LaneStats) -> Text:
    """The mark first, so that it stays where the label gives way."""
    text = Text()
    if lane.quarantined:
        text.append("quarantined ", style=_ALARM)
    if not lane.alive:
        text.append("dead ", style="bold")
    return text.append(plain(lane.label), style="" if lane.alive else "dim")


def _counts(lane: LaneStats) -> tuple[str, ...]:
    counts = (f"{count:,}" for count in (lane.recorded, lane.dropped, lane.decisions))
    return (*counts, decimal(lane.backlog_bytes) if lane.backlog_bytes else "0")


def routes(stats: EngineStats) -> RenderableType | None:
    """Routes and what they earn; None where there are none.

    Bars, then latency and tokens, are left out where names would have to give way for them.
    """
    if not stats.routes:
        return None
    return _FirstThatFits(
        [
            _routes(stats.routes, bars=bars, told=told)
            for bars, told in ((True, True), (False, True), (False, False))
        ]
    )


def _routes(rows: Sequence[RouteStats], *, bars: bool, told: bool) -> LineTable:
    latency = told and any(row.mean_latency_ms is not None for row in rows)
    tokens = told and any(row.mean_tokens is not None for row in rows)
    titles = ["share", *[""] * bars, "reward", "odds", "outcomes", "cost"]
    titles += ["latency"] * latency + ["tokens"] * tokens
    lines: list[list[str | Text]] = []
    for row in rows:
        line: list[str | Text] = [plain(row.name) + ("" if row.active else " (retired)")]
        line += [f"{row.share:.1%}"]
        line += [Text(bar(row.share, _BAR_WIDTH), style=_BAR_COLOUR)] * bars
        line += _route_figures(row)
        line += [_figure(row.mean_latency_ms, " ms")] * latency
        line += [_figure(row.mean_tokens)] * tokens
        lines.append(line if row.active else [Text(str(cell), style="dim") for cell in line])
    return LineTable([LineColumn("route", is_name=True), *map(LineColumn, titles)], lines)


def _route_figures(row: RouteStats) -> tuple[str, ...]:
    odds = "" if row.propensity is None else f"{row.propensity:.3f}"
    reward = f"{row.mean_reward:.4f}" if row.outcomes else ""
    return reward, odds, f"{row.outcomes:,}", f"{row.cost:g}"


# ---- trouble ----


def losses(stats: EngineStats, rates: Rates | None = None) -> RenderableType:
    """What was lost, refused or given up, and what each means."""
    found = {name: count for name, count in stats.losses.items() if count}
    if not found:
        return Text("nothing lost, refused or given up", style="dim")
    table = _table("loss")
    table.add_column("count", justify="right", no_wrap=True)
    if rates is not None:
        table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("meaning", style="dim")
    for name, count in found.items():
        rate = () if rates is None else (_loss_rate(name, rates),)
        table.add_row(name, f"{count:,}", *rate, LOSSES[name].meaning)
    return table


def _loss_rate(name: str, rates: Rates) -> Text:
    style = _ALARM if name in rates.alarms else ""
    return Text(per_second(rates.losses[name]), style=style)


def errors(stats: EngineStats) -> RenderableType:
    """Distinct errors of all processes, the latest first."""
    if not stats.errors:
        return Text("no errors", style="dim")
    table = _table("error")
    for column in ("count", "first", "last"):
        table.add_column(column, justify="right", no_wrap=True)
    for noted in stats.errors:
        what = Text.assemble((plain(noted.where), "bold"), " ", plain(noted.what))
        ages = (age(_seconds_since(at)) for at in (noted.first_ns, noted.last_ns))
        table.add_row(what, f"{noted.count:,}", *ages)
    if stats.errors_unlisted:
        unlisted = Text("of kinds for which there was no room", style="dim")
        table.add_row(unlisted, f"{stats.errors_unlisted:,}", "", "")
    return table


# ---- what was learned ----


def learned(stats: EngineStats) -> Table:
    """Experts, patterns and adapters."""
    grid = Table.grid(Column(style="dim", no_wrap=True), Column(), padding=(0, 2))
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in stats.expert_weights.items())
    grid.add_row("experts", weights or "none")
    grid.add_row("patterns", f"{stats.patterns:,} in use")
    shifts = (
        Text(f"{name} {shift:.2g}") if shift is not None else Text(f"{name} not finite", _ALARM)
        for name, shift in stats.adapter_shift.items()
    )
    grid.add_row("adapters' shift", Text(", ").join(shifts))
    return grid


def counters(stats: EngineStats) -> LineTable:
    """The learner's counters as of the last publication, but for the losses."""
    counts = dataclasses.asdict(stats.counters).items()
    rows = [(name, f"{count:,}") for name, count in counts if name not in LOSSES]
    return LineTable([LineColumn("counter", is_name=True), LineColumn("count")], rows)


# ---- pieces ----


def _table(first: str) -> Table:
    """A table without lines, which its first column names."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, header_style="bold")
    return table


class _FirstThatFits:
    """The first of some tables for which the console is wide enough, or else the last."""

    def __init__(self, candidates: Sequence[LineTable]) -> None:
        self._candidates = candidates

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fitting = (table for table in self._candidates if table.width <= options.max_width)
        yield next(fitting, self._candidates[-1])


def _seconds_since(nanoseconds: int) -> float:
    return (time.time_ns() - nanoseconds) / 1e9


def _figure(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:,.0f}{unit}"
