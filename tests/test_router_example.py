"""The example router over HTTP: its endpoints, what it says to bad input, and its upstreams."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import sona_shm as sona
from tests.conftest import ROOT, remove_everything
from tests.web.servers import PATIENCE, Server, server

STUBS = {"small": "stub://chat", "large": "stub://code,mathematics,chat"}
ALL_FORMS = ("good", "broken", "refusing", "cutting", "hanging", "nonsense", "unfit")
HASHED = 'kind = "hashed_ngrams"\ndimension = 64\n'


def settings_text(name: str, upstreams: dict[str, str], embedder: str = HASHED) -> str:
    none = "" if upstreams else "upstreams = []\n"
    tables = [f'{none}[engine]\nname = "{name}"\n[embedder]\n{embedder}']
    for upstream, url in upstreams.items():
        tables.append(f'[[upstreams]]\nname = "{upstream}"\ncost = 0.5\nbase_url = "{url}"\n')
        if upstream == "good":
            tables.append('model = "the-model"\napi_key_env = "TEST_API_KEY"\n')
    return "\n".join(tables)


class Running:
    """Routers that a test has started, and requests to the last one."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder

    def start(self, settings: str) -> Server:
        """Start a router; it may refuse to."""
        file = self._folder / f"{secrets.token_hex(4)}.toml"
        file.write_text(settings)
        command = ["uvicorn", "--app-dir", "examples", "router.app:app", "--port", "0"]
        environment = {"SONA_ROUTER": str(file), "TEST_API_KEY": "secret"}
        started = server(file.with_suffix(".log"), *command, environment=environment)
        return self._stack.enter_context(started)

    def client(self, settings: str) -> httpx.Client:
        """Start a router and connect to it."""
        url = f"http://127.0.0.1:{self.start(settings).port}"
        return self._stack.enter_context(httpx.Client(base_url=url, timeout=PATIENCE))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(stack, tmp_path_factory.mktemp("router"))


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that answers, or fails, as `tests.web.upstream` has it."""
    log = tmp_path_factory.mktemp("upstream") / "log"
    with server(log, "uvicorn", "tests.web.upstream:app", "--port", "0") as running:
        yield f"http://127.0.0.1:{running.port}"


@pytest.fixture(scope="module")
def stubs(running: Running) -> Iterator[tuple[str, httpx.Client]]:
    """A router with stubs, and its engine's name; nobody learns."""
    name = f"t-{secrets.token_hex(6)}"
    yield name, running.client(settings_text(name, STUBS))
    remove_everything(name)


@pytest.fixture(scope="module")
def failing(running: Running, upstream: str) -> Iterator[tuple[str, httpx.Client]]:
    """A router before an upstream of each form."""
    name = f"t-{secrets.token_hex(6)}"
    upstreams = {form: f"{upstream}/{form}/v1" for form in ALL_FORMS}
    yield name, running.client(settings_text(name, upstreams | {"absent": "http://127.0.0.1:9"}))
    remove_everything(name)


def ask(client: httpx.Client, model: str = "auto", prompt: str = "hello", **more: Any) -> Any:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": prompt}]
    return client.post("/v1/chat/completions", json={"model": model, "messages": messages, **more})


def outcomes(name: str) -> dict[str, tuple[int, float]]:
    """Per route, how many outcomes were learned and their mean quality."""
    sona.Learner(name).close()
    with sona.Engine.attach(name) as engine:
        weight, rows = engine.config.cost_weight, engine.stats().routes
        return {row.name: (row.outcomes, row.mean_reward + weight * row.cost) for row in rows}


# ---- endpoints ----


def test_an_answer_says_how_it_came_about(stubs: tuple[str, httpx.Client]) -> None:
    answer = ask(stubs[1])
    assert answer.status_code == 200
    content = answer.json()
    assert content["choices"][0]["message"]["content"].endswith("on: hello")
    assert content["sona"].keys() == {"decision_id", "route", "propensity"}
    assert content["sona"]["route"] == content["model"] == answer.headers["x-sona-route"]
    assert content["sona"]["decision_id"] == answer.headers["x-sona-decision-id"]
    assert float(answer.headers["x-sona-propensity"]) == pytest.approx(
        content["sona"]["propensity"], rel=1e-5
    )


@pytest.mark.parametrize("route", STUBS)
def test_a_model_s_name_pins_it(stubs: tuple[str, httpx.Client], route: str) -> None:
    decision = ask(stubs[1], model=route).json()["sona"]
    assert (decision["route"], decision["propensity"]) == (route, 1.0)


def test_a_stream_is_passed_through(stubs: tuple[str, httpx.Client]) -> None:
    answer = ask(stubs[1], stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert last == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"]["content"] for event in events]
    assert "".join(deltas) == f"This is {answer.headers['x-sona-route']} on: hello "
    told = {"decision_id": answer.headers["x-sona-decision-id"], "quality": 1}
    assert stubs[1].post("/feedback", json=told).status_code == 202


def test_feedback_is_learned(stubs: tuple[str, httpx.Client]) -> None:
    name, client = stubs
    before, _ = outcomes(name)["small"]
    decision = ask(client, model="small").json()["sona"]
    told = {"decision_id": decision["decision_id"], "quality": 0.9}
    assert client.post("/feedback", json=told).status_code == 202
    assert outcomes(name)["small"][0] == before + 1


def test_health_is_good_without_a_learner_which_is_said(stubs: tuple[str, httpx.Client]) -> None:
    name, client = stubs
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["learner_alive"]) == (200, False)
    with sona.Learner(name):
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()["learner_alive"]) == (200, True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{", "the body is no JSON"),
        (b"\xff", "the body is no JSON"),
        ("[]", "the body is [], expected a JSON object"),
        ("{}", "decision_id is null, expected the string"),
        ('{"decision_id": 12, "quality": 1}', "decision_id is 12, expected the string"),
        ('{"decision_id": "-1", "quality": 1}', 'decision_id is "-1"'),
        ('{"decision_id": "\u0663", "quality": 1}', "decision_id is"),
        ('{"decision_id": "12"}', "quality is null, expected a number from 0 to 1"),
        ('{"decision_id": "12", "quality": 1.5}', "quality is 1.5"),
        ('{"decision_id": "12", "quality": NaN}', "the body is no JSON: Out of range"),
        ('{"decision_id": "18446744073709551616", "quality": 1}', "decision_id is"),
        ("[" * 100_000, "the body is no JSON: it is nested too deeply"),
        ('{"decision_id": "12", "quality": true}', "quality is true"),
        ('{"decision_id": "12", "quality": "good"}', 'quality is "good"'),
    ],
)
def test_bad_feedback_is_answered_with_what_was_expected(
    stubs: tuple[str, httpx.Client], body: str | bytes, expected: str
) -> None:
    answer = stubs[1].post("/feedback", content=body)
    assert answer.status_code == 400
    assert expected in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "model is null, expected one of auto, small, large"),
        ({"model": "gpt"}, 'model is "gpt", expected one of auto, small, large'),
        ({"model": ["auto"]}, "expected one of auto, small, large"),
        ({"model": "auto"}, "messages is null, expected a non-empty list"),
        ({"model": "auto", "messages": []}, "messages is [], expected a non-empty list"),
        ({"model": "auto", "messages": ["hello"]}, 'a message is "hello", expected {"role"'),
        ({"model": "auto", "messages": [{}], "stream": "yes"}, 'stream is "yes"'),
        (
            {"model": "auto", "messages": [{"content": "half of an emoji: \ud83d"}]},
            "no JSON: 'utf-8'",
        ),
    ],
)
def test_a_bad_chat_request_is_answered_with_what_was_expected(
    stubs: tuple[str, httpx.Client], body: dict[str, Any], expected: str
) -> None:
    answer = stubs[1].post("/v1/chat/completions", content=json.dumps(body))
    assert answer.status_code == 400
    assert expected in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused(stubs: tuple[str, httpx.Client]) -> None:
    answer = stubs[1].post("/v1/chat/completions", content=b" " * (32 * 2**20 + 1))
    assert answer.status_code == 413
    assert "longer than 33,554,432 bytes" in answer.json()["error"]["message"]


def test_stream_may_be_null_as_openai_has_it(stubs: tuple[str, httpx.Client]) -> None:
    assert ask(stubs[1], stream=None).json()["object"] == "chat.completion"


@pytest.mark.parametrize("content", [None, "", [{"type": "text", "text": "hello"}, 3], 12])
def test_any_content_can_be_routed(stubs: tuple[str, httpx.Client], content: Any) -> None:
    assert ask(stubs[1], prompt=content).status_code == 200


# ---- upstreams ----


def test_an_upstream_gets_its_model_and_its_key(failing: tuple[str, httpx.Client]) -> None:
    message = ask(failing[1], model="good").json()["choices"][0]["message"]["content"]
    assert json.loads(message) == {"model": "the-model", "key": "Bearer secret"}


@pytest.mark.parametrize("form", ["broken", "nonsense", "unfit", "absent"])
def test_a_pinned_upstream_that_fails_is_learned_as_bad(
    failing: tuple[str, httpx.Client], form: str
) -> None:
    name, client = failing
    before, _ = outcomes(name)[form]
    answer = ask(client, model=form)
    assert answer.status_code == 502
    assert answer.json()["error"]["message"].startswith(f"{form}: http://")
    assert outcomes(name)[form] == (before + 1, 0.0)


def test_a_refusal_is_passed_on_and_not_learned(failing: tuple[str, httpx.Client]) -> None:
    name, client = failing
    answer = ask(client, model="refusing")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "the prompt is too long"
    assert outcomes(name)["refusing"][0] == 0


def test_a_stream_of_http_is_passed_through(failing: tuple[str, httpx.Client]) -> None:
    text = ask(failing[1], model="good", stream=True).text
    assert text.count("data: ") == 3
    assert text.endswith("data: [DONE]\n\n")


def test_a_stream_that_breaks_off_ends_with_an_error(failing: tuple[str, httpx.Client]) -> None:
    name, client = failing
    answer = ask(client, model="cutting", stream=True)
    assert answer.status_code == 200
    one, two, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert "one" in one
    assert "two" in two
    assert json.loads(last)["error"]["type"] == "upstream_error"
    assert outcomes(name)["cutting"] == (1, 0.0)


def test_a_page_instead_of_a_stream_is_a_failure(failing: tuple[str, httpx.Client]) -> None:
    name, client = failing
    before, _ = outcomes(name)["nonsense"]
    answer = ask(client, model="nonsense", stream=True)
    assert answer.status_code == 502
    assert "expected events" in answer.json()["error"]["message"]
    assert outcomes(name)["nonsense"] == (before + 1, 0.0)


def test_answers_that_take_long_hold_up_no_others(failing: tuple[str, httpx.Client]) -> None:
    name, client = failing
    body = {"model": "hanging", "messages": [{"content": "hello"}], "stream": True}
    waiting = []  # an iterator that is dropped closes its connection
    with ExitStack() as streams:
        patient = httpx.Client(limits=httpx.Limits(max_connections=None), timeout=PATIENCE)
        streams.enter_context(patient)
        for _ in range(101):  # httpx has 100 connections, unless it is told otherwise
            url = client.base_url.join("/v1/chat/completions")
            answer = streams.enter_context(patient.stream("POST", url, json=body))
            waiting.append(answer.iter_bytes())
            assert next(waiting[-1]).startswith(b"data: ")
        assert ask(client, model="good").status_code == 200
        assert outcomes(name)["hanging"][0] == 0


def test_another_route_is_tried_where_one_fails(running: Running, upstream: str, name: str) -> None:
    upstreams = {form: f"{upstream}/{form}/v1" for form in ("good", "broken")}
    client = running.client(settings_text(name, upstreams))
    for stream in (False, True) * 10:
        answer = ask(client, stream=stream)
        assert answer.status_code == 200
        assert answer.headers["x-sona-route"] == "good"
    learned = outcomes(name)
    assert learned["broken"][0] > 0
    assert learned["broken"][1] == 0.0
    assert learned["good"][0] == 0


def test_two_failures_are_an_error(running: Running, upstream: str, name: str) -> None:
    upstreams = {"broken": f"{upstream}/broken/v1", "absent": "http://127.0.0.1:9"}
    answer = ask(running.client(settings_text(name, upstreams)))
    assert answer.status_code == 502
    assert "broken: http" in answer.json()["error"]["message"]
    assert "absent: http" in answer.json()["error"]["message"]


def test_an_embedder_over_http(running: Running, upstream: str, name: str) -> None:
    embedder = f'kind = "openai"\nbase_url = "{upstream}/v1"\nmodel = "e"\ndimension = 4\n'
    client = running.client(settings_text(name, STUBS, embedder))
    assert ask(client).status_code == 200
    answer = ask(client, prompt="short")
    assert answer.status_code == 502
    assert "shape (3,), expected (4,)" in answer.json()["error"]["message"]
    assert ask(client, prompt="fail").status_code == 502
    answer = ask(client, prompt="nothing")
    assert answer.status_code == 502
    assert "not finite" in answer.json()["error"]["message"]
    assert ask(client, prompt="long " * 10_000).status_code == 200


# ---- engine and settings ----


def test_feedback_is_refused_where_the_lane_is_full(running: Running, name: str) -> None:
    routes = [sona.Route(route, 0.5) for route in STUBS]
    config = sona.SonaConfig(hidden_dim=64, routes=routes, trajectory_capacity=1)
    sona.Engine.create(name, config).close()
    client = running.client(settings_text(name, STUBS))
    told = {"decision_id": ask(client).json()["sona"]["decision_id"], "quality": 0.5}
    answers = [client.post("/feedback", json=told) for _ in range(300)]
    refused = [answer for answer in answers if answer.status_code != 202]
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {
        (503, "1")
    }
    assert ask(client).status_code == 200
    with sona.Engine.attach(name) as engine:
        assert engine.stats().dropped == len(refused)


def test_an_engine_may_go_and_come_back(running: Running, name: str) -> None:
    settings = settings_text(name, STUBS)
    client = running.client(settings)
    sona.Engine.destroy(name)
    for answer in (ask(client), client.get("/healthz")):
        assert answer.status_code == 503
        assert f"no engine '{name}'" in answer.json()["error"]["message"]
    config = sona.SonaConfig(hidden_dim=64, routes=[sona.Route(route) for route in STUBS])
    sona.Engine.create(name, config).close()
    assert ask(client).status_code == 200
    assert client.get("/healthz").status_code == 200


def test_routes_and_costs_follow_the_settings(running: Running, name: str) -> None:
    config = sona.SonaConfig(hidden_dim=64, routes=[sona.Route("small", 0.1)])
    with sona.Engine.create(name, config, learner="thread") as engine:
        client = running.client(settings_text(name, STUBS))
        assert ask(client, model="large").status_code == 200
        assert {row.name: row.cost for row in engine.stats().routes} == dict.fromkeys(STUBS, 0.5)


@pytest.mark.parametrize(
    ("embedder", "upstreams", "expected"),
    [
        (HASHED.replace("64", "32"), STUBS, "exists with hidden_dim = 64, .* length 32"),
        ('kind = "magic"\ndimension = 64\n', STUBS, "embedder kind is 'magic', expected"),
        (HASHED, {"a": "stub://cooking"}, "expected stub:// and some of code, mathematics, chat"),
        (HASHED, {"a": "ftp://x"}, "expected http://, https:// or stub://"),
        (HASHED, {"a": "http://x:port/v1"}, "base_url of a is 'http://x:port/v1': Invalid port"),
        (HASHED, {}, r"expected \[engine\], \[embedder\] and one \[\[upstreams\]\] for each model"),
        (HASHED + "wings = 2\n", STUBS, r"\[embedder\] has wings, expected kind, dimension"),
        (HASHED + "model = 2\n", STUBS, r"\[embedder\] has model = 2, expected str"),
        (HASHED.replace("64", "0"), STUBS, "hidden_dim is 0, expected"),
    ],
)
def test_what_cannot_be_is_said_at_the_start(
    running: Running, name: str, embedder: str, upstreams: dict[str, str], expected: str
) -> None:
    routes = [sona.Route(route, 0.5) for route in STUBS]
    sona.Engine.create(name, sona.SonaConfig(hidden_dim=64, routes=routes)).close()
    started = running.start(settings_text(name, upstreams, embedder))
    assert started.process.wait(PATIENCE) != 0
    started.await_log(expected)


def test_settings_can_be_checked_before_a_reload(name: str, tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    command = ["gunicorn", "--check-config", "-c", "examples/router/gunicorn.conf.py"]
    environment = {**os.environ, "SONA_ROUTER": str(file)}
    for text, code in ((settings_text(name, STUBS), 0), ("[", 1)):
        file.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True
        )
        assert (done.returncode, bool(done.stdout + done.stderr)) == (code, bool(code))
