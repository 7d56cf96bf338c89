"""A running `sona serve`, and what it answers."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

import sona_shm as sona
from tests.children import ENVIRONMENT, PATIENCE

#: Small, and with lanes to spare.
CONFIG = sona.SonaConfig(
    hidden_dim=8,
    routes=(sona.Route("a"), sona.Route("b", 0.5)),
    cost_weight=0.2,
    max_workers=4,
    pending_decisions=64,
)

#: A series: its name and labels.
Series = tuple[str, frozenset[tuple[str, str]]]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Server(NamedTuple):
    """A process that serves, and where."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(
                method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}
            )
            response = connection.getresponse()
            text = response.read().decode()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, text)
        finally:
            connection.close()

    def state(self) -> Any:
        return self.get("/api/state").json()

    def metrics(self) -> dict[Series, float]:
        """Every series and its value, as Prometheus reads them."""
        answer = self.get("/metrics")
        assert answer.status == 200
        samples = [s for f in text_string_to_metric_families(answer.text) for s in f.samples]
        series = {(s.name, frozenset(s.labels.items())): s.value for s in samples}
        assert len(series) == len(samples)
        return series

    def metric(self, name: str, **labels: str) -> float:
        """The one series of that name that has these labels."""
        wanted = set(labels.items())
        (value,) = [v for (n, has), v in self.metrics().items() if n == name and wanted <= has]
        return value

    def stop(self) -> str:
        """SIGTERM; what it has logged since it began to serve."""
        self.process.terminate()
        assert self.process.stderr is not None
        log = self.process.stderr.read()
        assert self.process.wait(PATIENCE) == 0, log
        return log


@contextmanager
def serving(name: str, *arguments: str) -> Iterator[Server]:
    """`sona serve NAME` on a port of its own."""
    port = () if "--port" in arguments else ("--port", "0")
    process = subprocess.Popen(
        [sys.executable, "-m", "sona_shm.cli", "serve", name, *port, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        address = re.search(r" on http://\S+:(\d+)$", first)
        assert address is not None, first
        yield Server(process, int(address[1]))
    finally:
        process.kill()
        process.communicate()


class Follower:
    """A client of /events."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        self._connection.request("GET", "/events")
        self.answer = self._connection.getresponse()

    def state(self) -> Any:
        """The next state."""
        for line in iter(self.answer.readline, b""):
            if line.startswith(b"data: "):
                return json.loads(line.removeprefix(b"data: "))
        raise AssertionError("the stream ended")

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


def teach(engine: sona.Engine, count: int = 100) -> None:
    """Outcomes around eight points, enough for patterns."""
    random_numbers = np.random.default_rng(7)
    for i in range(count):
        x = np.eye(8)[i % 8] + 0.1 * random_numbers.standard_normal(8)
        engine.feedback(engine.route(x).id, i % 5 / 4)
