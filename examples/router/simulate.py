"""Asks the running router, judges what the stubs answer, and prints how the reward climbs.

``python -m router.simulate [URL]``, in the folder ``examples``.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter

import httpx

from router.prompts import random_prompt
from router.settings import load
from router.stubs import stub_quality

REQUESTS, CLIENTS, BLOCK = 1000, 8, 100


async def main(url: str) -> None:
    """Ask `REQUESTS` times and print a line for each `BLOCK` of them."""
    settings = load()
    upstreams = {upstream.name: upstream for upstream in settings.upstreams}
    numbers = random.Random(1)
    rewards: list[float] = []
    routes: Counter[str] = Counter()

    async def ask(client: httpx.AsyncClient) -> None:
        prompt = random_prompt(numbers)
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
        answer = await client.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
        decision = answer.json()["sona"]
        upstream = upstreams[decision["route"]]
        quality = stub_quality(upstream.base_url.removeprefix("stub://"), prompt)
        told = {"decision_id": decision["decision_id"], "quality": quality}
        (await client.post("/feedback", json=told)).raise_for_status()
        rewards.append(quality - settings.engine.cost_weight * upstream.cost)
        routes[upstream.name] += 1

    async def client() -> None:
        async with httpx.AsyncClient(base_url=url) as connection:
            while len(rewards) < REQUESTS:
                await ask(connection)
                if len(rewards) % BLOCK == 0:
                    shares = ", ".join(f"{name} {n}" for name, n in sorted(routes.items()))
                    print(f"{len(rewards):5}  reward {sum(rewards[-BLOCK:]) / BLOCK:.3f}  {shares}")
                    routes.clear()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


if __name__ == "__main__":
    asyncio.run(main(*(sys.argv[1:] or ["http://127.0.0.1:8000"])))
