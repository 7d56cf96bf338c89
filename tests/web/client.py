"""A client process of the example router: asks, judges, tells; tries again where it was cut off.

``python -m tests.web.client PORT SEED COUNT`` prints what happened as JSON.  ``$SONA_ROUTER`` names
the router's settings; only their upstreams are read, so that clients start quickly.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import random
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from router.prompts import random_prompt
from router.stubs import stub_quality

_PATIENCE: Final = 60.0


@dataclasses.dataclass
class Report:
    """What a client has seen."""

    rewards: list[float] = dataclasses.field(default_factory=list)
    blind_rewards: list[float] = dataclasses.field(default_factory=list)  # of a random choice
    acknowledged: int = 0
    cross_worker: int = 0
    chat_cut_off: int = 0
    feedback_cut_off: int = 0
    refused: list[str] = dataclasses.field(default_factory=list)


class Connection:
    """A connection that is kept, and made anew where it was cut off."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
        self.cut_off = 0

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, str, bytes]:
        """Status, worker, and content of the answer, once there is one."""
        while True:
            try:
                self._http.request("POST", path, json.dumps(body))
                response = self._http.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException):
                self.cut_off += 1
                self._http.close()
            else:
                return response.status, response.headers.get("x-sona-worker", ""), content


def run(port: int, seed: int, count: int) -> Report:
    """Ask `count` times; chat goes over one connection, feedback over another."""
    settings = tomllib.loads(Path(os.environ["SONA_ROUTER"]).read_text())
    upstreams = {upstream["name"]: upstream for upstream in settings["upstreams"]}
    cost_weight = settings["engine"]["cost_weight"]
    report, numbers = Report(), random.Random(seed)
    chat, tell = Connection(port), Connection(port)
    for _ in range(count):
        prompt = random_prompt(numbers)
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
        status, decider, content = chat.post("/v1/chat/completions", body)
        if status != 200:
            report.refused.append(f"{status} {content[:200]!r}")
            continue
        decision = json.loads(content)["sona"]
        qualities = {
            name: stub_quality(upstream["base_url"].removeprefix("stub://"), prompt)
            for name, upstream in upstreams.items()
        }
        told = {
            "decision_id": decision["decision_id"],
            "quality": qualities[decision["route"]],
        }
        status, teller, content = tell.post("/feedback", told)
        if status != 202:
            report.refused.append(f"{status} {content[:200]!r}")
            continue
        report.acknowledged += 1
        report.cross_worker += teller != decider
        rewards = {
            name: qualities[name] - cost_weight * upstream["cost"]
            for name, upstream in upstreams.items()
        }
        report.rewards.append(rewards[decision["route"]])
        report.blind_rewards.append(sum(rewards.values()) / len(rewards))
    report.chat_cut_off, report.feedback_cut_off = chat.cut_off, tell.cut_off
    return report


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(run(*map(int, sys.argv[1:])))))
