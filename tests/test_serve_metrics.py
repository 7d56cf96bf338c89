"""What Prometheus scrapes, and the files that are given to it and to Grafana."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

import sona_shm as sona
from sona_shm.loops.metrics import InstantLoopMetrics
from sona_shm.monitor.losses import LOSSES
from sona_shm.shm.waiting import wait_until
from sona_shm.web.metrics import LEARNER_COUNTERS
from tests.children import PATIENCE, end, finish, hear, start, tell
from tests.conftest import ROOT
from tests.serving import CONFIG, serving, teach


def promtool(*arguments: str, text: str = "") -> None:
    """Prometheus' own checks; skips where they are not installed."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is absent; install the Debian package prometheus")
    done = subprocess.run([tool, *arguments], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_metrics_say_what_the_statistics_say(name: str) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        teach(engine)
        for tried in CONFIG.routes:  # by chance, all choices may have been the same
            engine.observe(np.ones(8), tried.name, 0.5)
        with pytest.raises(sona.OutOfRangeError):
            engine.feedback(1, 2.0)
        engine.feedback(1, 0.5)
        stats = engine.stats()
        with serving(name) as server:
            series = server.metrics()
    values = {key: value for key, value in series.items() if ("engine", name) in key[1]}

    def of(metric: str, **labels: str) -> float:
        return values[metric, frozenset({"engine": name, **labels}.items())]

    assert (of("sona_engine_up"), of("sona_learner_alive"), of("sona_learner_standby_alive")) == (
        1,
        1,
        0,
    )
    assert of("sona_records_total") == stats.recorded == 103
    assert of("sona_decisions_total") == stats.decisions == 100
    assert of("sona_publications_total") == stats.version
    assert of("sona_errors_total", where="feedback") == 1
    for counter, count in dataclasses.asdict(stats.counters).items():
        if counter not in LOSSES:
            assert of(f"sona_{counter}_total") == count
    for reason, count in stats.losses.items():
        assert of("sona_losses_total", reason=reason) == count
    assert of("sona_losses_total", reason="feedback_unknown") == 1
    for route in stats.routes:
        assert of("sona_route_outcomes_total", route=route.name) == route.outcomes
        assert of("sona_route_mean_reward", route=route.name) == route.mean_reward
        assert of("sona_route_share_ratio", route=route.name) == route.share
    for expert, weight in stats.expert_weights.items():
        assert of("sona_expert_weight", expert=expert) == weight
    assert [of("sona_lane_alive", lane=str(lane)) for lane in range(4)] == [1, 0, 0, 0]
    assert of("sona_shared_memory_bytes") == stats.bytes == CONFIG.nbytes()


def test_every_counter_of_the_learner_has_a_meaning() -> None:
    counters = [field.name for field in dataclasses.fields(InstantLoopMetrics)]
    assert set(LOSSES) - {"dropped"} <= set(counters)
    assert list(LEARNER_COUNTERS) == [name for name in counters if name not in LOSSES]


def test_the_time_of_the_last_publication_does_not_move_between_scrapes(name: str) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine, serving(name) as server:
        metric = "sona_last_publication_timestamp_seconds"
        assert np.isnan(server.metric(metric))
        teach(engine, 1)
        assert wait_until(lambda: server.metric("sona_records_total") == 1, PATIENCE)
        first = server.metric(metric)
        number = server.state()["time"]
        assert wait_until(lambda: server.state()["time"] > number, PATIENCE)
        assert server.metric(metric) == first


@pytest.mark.parametrize("running", [True, False])
def test_prometheus_understands_the_metrics(name: str, running: bool) -> None:
    with serving(name) as server:
        if running:
            with sona.Engine.create(name, CONFIG, learner="inline") as engine:
                teach(engine, 20)
                assert wait_until(lambda: server.metric("sona_engine_up") == 1, PATIENCE)
                plain = server.get("/metrics")
                modern = server.get(
                    "/metrics", Accept="application/openmetrics-text; version=1.0.0"
                )
        else:
            plain = server.get("/metrics")
            modern = server.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert modern.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = list(openmetrics(modern.text))  # type: ignore[no-untyped-call]  # it has no hints
    assert modern.text.endswith("# EOF\n")
    assert all(family.documentation for family in families)
    names = {family.name for family in families}
    assert len(names) == len(families) == (len(LEARNER_COUNTERS) + 31 if running else 4)
    assert running == ({"sona_losses", *(f"sona_{name}" for name in LEARNER_COUNTERS)} <= names)
    promtool("check", "metrics", text=plain.text)


CHURN = """
import random
engine = sona.Engine.attach(name)
random.seed(int(sys.argv[2]))
while (count := int(hear())):
    for _ in range(0, count, 4):
        for i in range(4):
            killed = random.random() < 0.3
            if os.fork() == 0:
                record(engine)
                if killed:
                    os.kill(os.getpid(), signal.SIGKILL)
                os._exit(0)
        for i in range(4):
            _, status = os.wait()
            assert status in (0, signal.SIGKILL), status
    say("gone")
"""
LEARN = "learner = sona.Learner(name)\nwhile True: learner.step() or learner.wait(0.01)"


def test_metrics_do_not_grow_over_a_thousand_workers(name: str, rng: np.random.Generator) -> None:
    sona.Engine.create(name, CONFIG).close()
    learner, churn = start(LEARN, name), start(CHURN, name, str(rng.integers(2**31)))
    try:
        with serving(name) as server:
            before = last = server.metrics()
            counters = [key for key in before if key[0].endswith("_total")]
            for _ in range(10):
                tell(churn, "100")
                assert hear(churn) == "gone"
                now = server.metrics()
                assert now.keys() == before.keys()
                assert [key for key in counters if now[key] < last[key]] == []
                last = now
            finish(churn, "0")
            assert wait_until(lambda: server.metric("sona_records_total") == 1000, PATIENCE)
            learned = "sona_trajectories_processed_total"
            assert wait_until(lambda: server.metric(learned) == 1000, PATIENCE)
            after = server.metrics()
            assert after.keys() == before.keys()
            assert [value for key, value in after.items() if key[0] == "sona_lane_alive"] == [0] * 4
    finally:
        end(churn)
        end(learner)


# ---- files for Prometheus and Grafana ----

PROMETHEUS = ROOT / "tools" / "prometheus"
DASHBOARD = ROOT / "tools" / "grafana" / "sona_shm.json"
METRIC = re.compile(r"\bsona_[a-z0-9_]+")


def exposed_names(name: str) -> set[str]:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        teach(engine, 20)
        with pytest.raises(sona.OutOfRangeError):
            engine.feedback(1, 2.0)
        with serving(name) as server:
            return {key[0] for key in server.metrics()}


def test_the_grafana_dashboard_uses_metrics_that_exist(name: str) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) >= 15
    used = {metric for expression in expressions for metric in METRIC.findall(expression)}
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert set(variables) == {"datasource", "engine", "instance"}
    # Of one engine on one host: shares of several would add up to more than all.
    for variable in ("engine", "instance"):
        assert not variables[variable]["multi"]
        used |= set(METRIC.findall(variables[variable]["query"]["query"]))
    assert used - exposed_names(name) == set()
    for expression in expressions:
        assert 'instance="$instance"' in expression
        assert 'engine="$engine"' in expression or "sona_host_" in expression
    for panel in panels:
        assert panel["datasource"]["uid"] == "${datasource}"
        # The last value of a time span would show a learner that has been gone for most of it.
        if panel["type"] == "stat":
            assert all(target["instant"] for target in panel["targets"])


def test_grafana_s_expressions_are_promql(tmp_path: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    rules = [
        {"record": f"x:{panel['id']}:{i}", "expr": target["expr"].replace("$__rate_interval", "1m")}
        for panel in dashboard["panels"]
        for i, target in enumerate(panel.get("targets", []))
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_the_alert_rules_use_metrics_that_exist(name: str) -> None:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 5
    for rule in rules:
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert rule["labels"]["severity"] in ("warning", "critical")
    used = {metric for rule in rules for metric in METRIC.findall(rule["expr"])}
    assert used - exposed_names(name) == set()


def test_prometheus_understands_rules_and_scrape_configuration() -> None:
    promtool("check", "rules", str(PROMETHEUS / "rules.yml"))
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


def test_alerts_fire_when_somebody_should_look_and_only_then() -> None:
    promtool("test", "rules", str(PROMETHEUS / "rules_test.yml"))
