"""The web monitor over HTTP: what it says, of living and dead, and that it only looks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.shm.waiting import wait_until
from sona_shm.watch import Watch
from sona_shm.web.sampler import Sampler
from tests.children import PATIENCE, end, hear, start
from tests.conftest import ROOT
from tests.serving import CONFIG, Follower, Server, serving, teach
from tests.test_cli import sona_command

PAGES = ("/", "/metrics", "/healthz", "/api/state", "/api/history", "/api/patterns")
WAIT = "say('on'); hear()"


# ---- what it says ----


def test_the_state_is_what_sona_stats_prints(name: str) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        teach(engine)
        with serving(name) as server:
            state = server.state()
            printed = json.loads(sona_command("stats", name, "--json").stdout)
    for moving in ("seconds_since_publish", "learner_seconds"):
        assert printed.pop(moving) >= state["stats"].pop(moving) >= 0.0
    assert state["stats"] == printed
    assert (state["up"], state["trouble"], state["max_workers"]) == (True, None, 4)
    assert 0 < state["shm"]["free_bytes"] <= state["shm"]["total_bytes"]


def test_health_needs_an_engine_and_a_learner(name: str) -> None:
    def health() -> tuple[int, dict[str, str]]:
        answer = server.get("/healthz")
        return answer.status, answer.json()

    with serving(name) as server:
        status, body = health()
        assert (status, body["status"]) == (503, "unavailable")
        assert f"no engine '{name}' on this host" in body["reason"]
        with sona.Engine.create(name, CONFIG):
            assert wait_until(
                lambda: "no living learner" in health()[1].get("reason", ""), PATIENCE
            )
            assert health()[0] == 503
            learner = start("learner = sona.Learner(name); " + WAIT, name)
            try:
                assert hear(learner) == "on"
                ok = (200, {"status": "ok", "engine": name, "learner": "alive"})
                assert wait_until(lambda: health() == ok, PATIENCE)
            finally:
                end(learner)
            assert wait_until(lambda: health()[0] == 503, PATIENCE)
            assert server.metric("sona_learner_alive") == 0
            assert server.metric("sona_learner_terms_total") == 1


def test_history_has_what_happened(name: str) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine, serving(name) as server:

        def columns() -> Any:
            return server.get("/api/history?seconds=60").json()

        assert wait_until(lambda: columns()["time"], PATIENCE)
        teach(engine, 50)
        assert wait_until(lambda: any(columns()["outcomes"]), PATIENCE)
        history = columns()
        teach(engine, 0)
        stats = engine.stats()
    lengths = {len(column) for key, column in history.items() if key not in ("step", "shares")}
    assert lengths == {len(column) for column in history["shares"].values()}
    rewards = [reward for reward in history["reward"] if reward is not None]
    mean = sum(r.outcomes * r.mean_reward for r in stats.routes) / 50
    assert rewards == [pytest.approx(mean)] or len(rewards) > 1  # a sample may fall between
    assert history["time"] == sorted(history["time"])


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "86401", "ten", ""])
def test_an_impossible_time_is_refused(name: str, seconds: str) -> None:
    with serving(name) as server:
        answer = server.get(f"/api/history?seconds={seconds}")
    assert answer.status == 400
    assert f"seconds is {seconds!r}, expected a number" in answer.json()["error"]


def test_patterns_lie_where_the_projection_puts_them(name: str) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        teach(engine, 400)
        bank = engine.reasoning_bank()
        with serving(name) as server:
            points = server.get("/api/patterns").json()["patterns"]
    assert len(points) == len(bank) > 3
    for point, pattern in zip(points, bank.patterns, strict=True):
        x, y = bank.projection.project(pattern.centroid)[:2]
        assert (point["x"], point["y"]) == (pytest.approx(x, abs=1e-6), pytest.approx(y, abs=1e-6))
        assert (point["size"], point["quality"]) == (pattern.cluster_size, pattern.avg_quality)
        rewards = pattern.route_quality - [0.0, 0.1]
        assert point["best_route"] == ("a", "b")[int(np.nanargmax(rewards))]
        assert point["best_reward"] == pytest.approx(np.nanmax(rewards))


def test_events_follow_the_engine(name: str) -> None:
    with (
        sona.Engine.create(name, CONFIG, learner="inline") as engine,
        serving(name) as server,
        closing(Follower(server)) as follower,
    ):
        assert (follower.answer.status, follower.state()["stats"]["recorded"]) == (200, 0)
        assert follower.answer.headers["Content-Type"].startswith("text/event-stream")
        teach(engine, 10)
        states = iter(follower.state, None)
        later = next(state for state in states if state["stats"]["recorded"] == 10)
        # All ten at once, or some in the sample before.
        assert 0 < later["rates"]["recorded"] * later["rates"]["seconds"] < 10.5


def test_so_many_may_follow_and_who_leaves_makes_room(name: str) -> None:
    with serving(name) as server, ExitStack() as stack:

        def follower() -> Follower:
            return stack.enter_context(closing(Follower(server)))

        followers = [follower() for _ in range(32)]
        assert [each.state()["up"] for each in followers] == [False] * 32
        refused = follower()
        assert refused.answer.status == 503
        assert "32 clients follow already" in json.loads(refused.answer.read())["error"]
        assert server.get("/api/state").status == 200
        followers[0].close()
        assert wait_until(lambda: follower().answer.status == 200, PATIENCE)
        # Although those who follow would never end by themselves.
        assert server.stop().count("\n") == 1


def test_who_follows_hears_something_although_nothing_is_new(name: str) -> None:
    async def heard() -> list[str | None]:
        states = Sampler(Watch(name)).states(patience=0.01)
        return [await anext(states) for _ in range(3)]

    state, *silence = asyncio.run(heard())
    assert state is not None
    assert json.loads(state)["up"] is False
    assert silence == [None, None]


def test_it_looks_once_a_second_however_many_ask(name: str) -> None:
    with sona.Engine.create(name, CONFIG), serving(name) as server:
        began = time.monotonic()
        times = {server.state()["time"] for _ in range(300)}
        assert len(times) <= time.monotonic() - began + 2


def test_history_is_made_once_a_sample_for_all_who_ask(name: str) -> None:
    with closing(Watch(name)) as watch:
        sampler = Sampler(watch)
        first = sampler.history(60.0)
        assert sampler.history(60.0) is first
        assert sampler.history(3600.0) is not first
        sampler._take(watch.look())
        assert sampler.history(60.0) is not first


# ---- engines and workers that come and go ----


def test_the_monitor_outlives_the_engine_and_finds_the_next(name: str) -> None:
    with serving(name) as server:
        assert server.metric("sona_engine_up") == 0
        with sona.Engine.create(name, CONFIG, learner="inline") as engine:
            teach(engine, 30)
            assert wait_until(lambda: server.metric("sona_engine_up") == 1, PATIENCE)
            assert wait_until(lambda: server.metric("sona_records_total") == 30, PATIENCE)
        other = dataclasses.replace(CONFIG, max_workers=2, routes=[sona.Route("c")])
        with sona.Engine.create(name, other, learner="inline", replace=True) as engine:
            teach(engine, 1)
            assert wait_until(lambda: server.metric("sona_records_total") == 1, PATIENCE)
            assert server.metric("sona_route_outcomes_total", route="c") == 1
            lanes = [key for key in server.metrics() if key[0] == "sona_lane_alive"]
            assert len(lanes) == 2
        sona.Engine.destroy(name)
        assert wait_until(lambda: server.metric("sona_engine_up") == 0, PATIENCE)
        assert wait_until(lambda: not server.state()["up"], PATIENCE)
        for page in PAGES:
            assert server.get(page).status == (503 if page == "/healthz" else 200)
        assert "no engine" in server.state()["trouble"]


def test_looking_changes_nothing(name: str) -> None:
    with sona.Engine.create(name, CONFIG) as engine:
        teach(engine, 20)
        kinds = ("control", "ring", "weights")
        before = [bytes(engine._memory.buffer(kind)) for kind in kinds]
        with serving(name) as server:
            for page in PAGES * 5:
                server.get(page)
            with closing(Follower(server)) as follower:
                for _ in range(3):
                    follower.state()
            server.stop()
        assert [bytes(engine._memory.buffer(kind)) for kind in kinds] == before
        assert [lane.index for lane in engine.stats().lanes] == [0]


# ---- requests, addresses, ends ----


def test_every_answer_keeps_to_itself(name: str) -> None:
    with serving(name) as server:
        answers = [
            server.get(p) for p in (*PAGES, "/static/dashboard.js", "/nowhere", "/static/../app.py")
        ]
        answers.append(server.get("/", method="POST"))
        answers.append(server.get("/", Host="elsewhere.example"))
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
    assert [answer.status for answer in answers[-5:]] == [200, 404, 404, 405, 400]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("page", [*PAGES, "/events", "/static/dashboard.js"])
def test_pages_are_only_read(shared_server: Server, page: str, method: str) -> None:
    assert shared_server.get(page, method=method).status == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:80", 200), ("LOCALHOST:9", 200), ("[::1]:1", 200)]
    + [(host, 400) for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost.evil:80")],
)
def test_another_host_s_name_is_refused(shared_server: Server, host: str, status: int) -> None:
    assert shared_server.get("/api/state", Host=host).status == status


@pytest.fixture(scope="module")
def shared_server() -> Any:
    """For requests that do not depend on an engine."""
    with serving("t-nobody-creates") as server:
        yield server


def test_garbage_is_answered_and_the_server_goes_on(shared_server: Server) -> None:
    for garbage in (b"\0\xff\r\n\r\n", b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", b"GET"):
        with socket.create_connection(("127.0.0.1", shared_server.port), PATIENCE) as client:
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
    assert shared_server.get("/api/state").status == 200


def test_a_port_in_use_is_one_line(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = sona_command("serve", name, "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("../etc",), 1, "expected 1 to 22 letters"),
        (("x", "--port", "65536"), 2, "65536 is above 65535"),
        (("x", "--host", "192.0.2.1"), 1, "cannot listen on 192.0.2.1 port 9464"),
        (("x", "--port", "-1"), 2, "-1 is below 0"),
        (("x", "--host", "no.such.host.invalid"), 1, "cannot listen on no.such.host.invalid"),
        (("x", "--host", "a..b"), 1, "cannot listen on a..b port 9464"),
        ((), 2, "usage: sona serve"),
    ],
)
def test_a_wrong_command_line_says_why(arguments: tuple[str, ...], code: int, words: str) -> None:
    done = sona_command("serve", *arguments)
    assert done.returncode == code
    assert words in done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1


def test_a_wide_address_is_warned_of_and_takes_any_name(name: str) -> None:
    with serving(name, "--host", "0.0.0.0") as server:
        assert server.get("/api/state", Host="monitor.example").status == 200
        log = server.stop()
    assert "there is no authentication" in log


def test_without_the_extra_the_error_names_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'starlette' else find(name, *a)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "sona_shm.cli", "serve", name],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert 'pip install "sona-shm[monitor]"' in done.stderr
