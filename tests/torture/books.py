"""Whether what workers say they recorded is what the learner says it learned."""

from __future__ import annotations

from contextlib import suppress

import sona_shm as sona
from tests.torture.processes import PATIENCE, Report, Table

#: Per worker process: what it began, and what returned True.
COLUMNS = (
    "lane",
    "begun_trajectories",
    "done_trajectories",
    "begun_feedbacks",
    "done_feedbacks",
    "repeated_feedbacks",
    "killed",
)
REASONS = (
    "feedback_duplicate",
    "feedback_expired",
    "feedback_unknown",
    "nonfinite_skipped",
    "records_corrupt",
)


def check_lanes(engine: sona.Engine, table: Table, report: Report) -> None:
    """Every lane counted what its workers recorded: all that returned True, nothing unasked."""
    for index in range(engine.config.max_workers):
        mine = table.column("lane") == index + 1
        killed = int(table.column("killed")[mine].sum())
        words = engine._memory.lane_words(index, "trajectories", "feedbacks", "dropped")
        begun = done = 0
        for kind in ("trajectories", "feedbacks"):
            low = int(table.column(f"done_{kind}")[mine].sum())
            high = int(table.column(f"begun_{kind}")[mine].sum())
            report.check(
                low <= words[kind] <= high,
                f"lane {index}: {words[kind]} {kind}, expected {low} to {high}",
            )
            begun += high
            done += low
        unsure = begun - sum(words.values())
        report.check(
            0 <= unsure <= killed,
            f"lane {index}: {begun} records begun, {words} counted, {killed} workers killed",
        )


def check_books(engine: sona.Engine, report: Report) -> None:
    """After a flush: everything recorded is learned or rejected with a counter."""
    report.check(engine.flush(timeout=PATIENCE), "flush was not answered")
    stats = engine.stats()
    counters = stats.counters
    processed = counters.trajectories_processed + counters.feedback_processed
    explained = counters.signals_accumulated + sum(getattr(counters, name) for name in REASONS)
    report.check(
        stats.recorded == processed,
        f"{stats.recorded} records, but {processed} learned or rejected",
    )
    report.check(
        processed == explained,
        f"{processed} records processed, but {explained} explained: {counters}",
    )
    damage = counters.records_corrupt + counters.lanes_quarantined + counters.records_lost
    report.check(damage == 0, f"kills alone damage nothing, but {counters}")
    report.check(
        counters.updates_applied == counters.signals_accumulated,
        f"{counters.signals_accumulated} signals, {counters.updates_applied} published",
    )
    report.figures |= {
        "recorded": stats.recorded,
        "dropped": stats.dropped,
        "signals": counters.signals_accumulated,
        "rejected": {name: getattr(counters, name) for name in REASONS},
        "version": stats.version,
    }


def check_lanes_free(engine: sona.Engine, report: Report) -> None:
    """All lanes can be claimed at once, and not one more."""
    engine.instant.release()
    others = [sona.Engine.attach(engine.name) for _ in range(engine.config.max_workers)]
    try:
        claimed = {other.instant._claim() and other.instant._lane_index for other in others}
        report.check(
            claimed == set(range(engine.config.max_workers)), f"only lanes {claimed} are free"
        )
        with suppress(sona.NoFreeLaneError):
            report.check(engine.instant._claim() is None, "a lane was claimed twice")
    except sona.NoFreeLaneError as error:
        report.check(False, f"a lane leaked: {error}")
    finally:
        for other in others:
            other.close()
