"""What Prometheus scrapes: a look at an engine as families of metrics.

Series are those of the engine's capacity and not of its processes, so they do not grow however
many workers come and go.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

import sona_shm
from sona_shm.monitor.stats import EngineStats
from sona_shm.watch import Look

#: Every counter of `InstantLoopMetrics` that is no loss; those are ``sona_losses_total``.
LEARNER_COUNTERS: Final = {
    "trajectories_processed": "Trajectories consumed by the learner.",
    "signals_accumulated": "Records that taught something.",
    "flushes_performed": "Publications with at least one signal.",
    "updates_applied": "Signals in those publications.",
    "feedback_processed": "Feedback records consumed by the learner.",
    "outcomes_learned": "Outcomes that moved a route's head.",
    "defaults_learned": "Decisions without feedback in time, learned with the default quality.",
    "routes_changed": "Changes of routes applied.",
    "refits_installed": "Refits of the patterns installed.",
    "task_alarms": "How often recent embeddings were far from what is usual for the task.",
    "tasks_begun": "New tasks found.",
    "tasks_returned": "Known tasks recognised.",
    "tasks_merged": "Pairs of tasks made one for want of room.",
    "cycles_installed": "Cycles of background learning installed.",
    "cycles_skipped": "Cycles of background learning left out for want of trajectories.",
    "heads_refitted": "Heads of routes replaced by background learning.",
}


class EngineCollector(Collector):
    """Makes metrics of looks.

    Counters never go backwards while an engine lives.  (A worker killed between counting a record
    and publishing it has its count taken back, which a scrape would take for a restart.)

    Parameters
    ----------
    name : str
        Of the engine, the label of everything about it.

    Examples
    --------
    >>> import sona_shm as sona
    >>> from sona_shm.watch import Watch
    >>> sona.Engine.create("doc-metrics", sona.SonaConfig(hidden_dim=2)).close()
    >>> watch = Watch("doc-metrics")
    >>> text, _ = EngineCollector("doc-metrics").exposition(watch.look(), accept="")
    >>> [line for line in text.decode().splitlines() if line.startswith("sona_engine_up")]
    ['sona_engine_up{engine="doc-metrics"} 1.0']
    >>> watch.close(); sona.Engine.destroy("doc-metrics")
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._look: Look | None = None
        self._attachment = 0
        self._highest: dict[tuple[str, ...], float] = {}
        self._published: tuple[int, float] = (-1, math.nan)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def exposition(self, look: Look, accept: str) -> tuple[bytes, str]:
        """The text of a scrape, and its content type, as the Accept header asks."""
        if look.attachment != self._attachment:
            self._attachment, self._highest = look.attachment, {}
            self._published = (-1, math.nan)
        self._look = look
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not look."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families of the look."""
        look = self._look
        if look is None:
            return
        yield self._gauge("sona_engine_up", "Whether the engine is there.", look.stats is not None)
        info = GaugeMetricFamily(
            "sona_monitor_info", "The monitor that exposes this.", labels=("version",)
        )
        info.add_metric((sona_shm.__version__,), 1.0)
        yield info
        for state, count in (("free", look.shm_free_bytes), ("total", look.shm_total_bytes)):
            name = f"sona_host_shared_memory_{state}_bytes"
            yield GaugeMetricFamily(name, f"Bytes of /dev/shm, {state}.", count)
        if look.stats is not None:
            yield from self._learner(look.stats, look.time)
            yield from self._records(look.stats)
            yield from self._lanes(look.stats, look.max_workers)
            yield from self._routes(look.stats)
            yield from self._learned(look.stats)
            yield from self._errors(look.stats)

    # ---- groups ----

    def _learner(self, stats: EngineStats, now: float) -> Iterator[Metric]:
        yield self._gauge(
            "sona_learner_alive", "Whether a living process learns.", stats.learner_alive
        )
        yield self._gauge(
            "sona_learner_standby_alive",
            "Whether a living process waits to learn.",
            stats.standby_alive,
        )
        yield self._counter(
            "sona_learner_terms", "How often a process became the learner.", stats.learner_terms
        )
        yield self._counter("sona_publications", "Versions of weights published.", stats.version)
        yield self._gauge(
            "sona_last_publication_timestamp_seconds",
            "When it was published; NaN before the first.",
            self._published_at(stats, now),
        )

    def _records(self, stats: EngineStats) -> Iterator[Metric]:
        for name, meaning, count in (
            ("records", "Records of all workers.", stats.recorded),
            ("decisions", "Decisions of all workers.", stats.decisions),
        ):
            yield self._counter(f"sona_{name}", meaning, count)
        yield self._by(
            CounterMetricFamily,
            "sona_losses",
            "What was lost, refused or given up.",
            "reason",
            stats.losses,
        )
        for name, meaning in LEARNER_COUNTERS.items():
            yield self._counter(f"sona_{name}", meaning, getattr(stats.counters, name))

    def _lanes(self, stats: EngineStats, lanes: int) -> Iterator[Metric]:
        """All lanes that there are; one that is not in the statistics is free and empty."""
        rows = {lane.index: lane for lane in stats.lanes}
        for name, meaning in (
            ("alive", "Whether a living process holds the lane."),
            ("backlog_bytes", "Bytes recorded and not yet learned in a published version."),
            ("quarantined", "Whether the lane is refused until its owner starts anew."),
        ):
            values = {
                str(i): float(getattr(rows[i], name)) if i in rows else 0.0 for i in range(lanes)
            }
            yield self._by(GaugeMetricFamily, f"sona_lane_{name}", meaning, "lane", values)

    def _routes(self, stats: EngineStats) -> Iterator[Metric]:
        yield self._by(
            CounterMetricFamily,
            "sona_route_outcomes",
            "Outcomes learned of the route.",
            "route",
            {route.name: route.outcomes for route in stats.routes},
        )
        for name, meaning, values in (
            ("active", "Whether the route is in service.", [r.active for r in stats.routes]),
            ("cost", "Its cost.", [r.cost for r in stats.routes]),
            (
                "mean_reward",
                "Mean reward of its outcomes, cost subtracted.",
                [r.mean_reward for r in stats.routes],
            ),
            (
                "mean_latency_seconds",
                "Of the feedback that told it; else NaN.",
                [
                    None if r.mean_latency_ms is None else r.mean_latency_ms / 1e3
                    for r in stats.routes
                ],
            ),
            (
                "mean_tokens",
                "Of the feedback that told them; else NaN.",
                [r.mean_tokens for r in stats.routes],
            ),
            (
                "share_ratio",
                "Part of the recent decisions that chose it.",
                [r.share for r in stats.routes],
            ),
            (
                "propensity_ratio",
                "Mean probability with which they did; NaN where none did.",
                [r.propensity for r in stats.routes],
            ),
        ):
            named = {
                route.name: math.nan if value is None else float(value)
                for route, value in zip(stats.routes, values, strict=True)
            }
            yield self._by(GaugeMetricFamily, f"sona_route_{name}", meaning, "route", named)

    def _learned(self, stats: EngineStats) -> Iterator[Metric]:
        yield self._by(
            GaugeMetricFamily,
            "sona_expert_weight",
            "How much the mixture listens to the expert.",
            "expert",
            stats.expert_weights,
        )
        yield self._gauge("sona_patterns", "Patterns in use by the bank.", stats.patterns)
        yield self._gauge("sona_tasks", "Tasks known.", stats.tasks)
        yield self._gauge("sona_current_task", "Index of the task learned now.", stats.task)
        shifts = {
            name: math.nan if shift is None else shift
            for name, shift in stats.adapter_shift.items()
        }
        yield self._by(
            GaugeMetricFamily,
            "sona_adapter_shift",
            "Largest length by which the adapter moves an embedding of length 1.",
            "adapter",
            shifts,
        )
        yield self._gauge(
            "sona_shared_memory_bytes", "Shared memory taken by the engine.", stats.bytes
        )

    def _errors(self, stats: EngineStats) -> Iterator[Metric]:
        """By place, of which there are as many as the code has, and not by message."""
        places: dict[str, int] = {}
        for noted in stats.errors:
            places[noted.where] = places.get(noted.where, 0) + noted.count
        yield self._by(
            CounterMetricFamily,
            "sona_errors",
            "Errors of all processes, by what was being done.",
            "where",
            places,
        )
        yield self._counter(
            "sona_errors_unlisted",
            "Errors for whose kind there was no room.",
            stats.errors_unlisted,
        )

    # ---- families ----

    def _gauge(self, name: str, meaning: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, meaning, labels=("engine",))
        family.add_metric((self._name,), float(value))
        return family

    def _counter(self, name: str, meaning: str, value: float) -> Metric:
        family = CounterMetricFamily(name, meaning, labels=("engine",))
        family.add_metric((self._name,), self._at_least((name,), value))
        return family

    def _by(
        self,
        kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        meaning: str,
        label: str,
        values: dict[str, float] | dict[str, int],
    ) -> Metric:
        """One series for each value of a label."""
        family = kind(name, meaning, labels=("engine", label))
        for key, value in values.items():
            counts = kind is CounterMetricFamily
            shown = self._at_least((name, key), value) if counts else float(value)
            family.add_metric((self._name, key), shown)
        return family

    def _at_least(self, key: tuple[str, ...], value: float) -> float:
        """The highest value that a counter has had."""
        self._highest[key] = max(float(value), self._highest.get(key, 0.0))
        return self._highest[key]

    def _published_at(self, stats: EngineStats, now: float) -> float:
        """The same time as long as the version is the same; statistics have an age, which moves."""
        if stats.seconds_since_publish is None:
            return math.nan
        if stats.version != self._published[0]:
            self._published = stats.version, now - stats.seconds_since_publish
        return self._published[1]
