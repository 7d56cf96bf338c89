"""Findings through a pipe: what is sent arrives, and nothing else is believed."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import msgpack
import numpy as np
import pytest

import sona_shm as sona
from sona_shm.learning.heads import HeadRefit
from sona_shm.learning.reasoning_bank import fit_patterns
from sona_shm.loops.cycle import TIMED, Findings
from sona_shm.loops.findings import HEADER, BadFindings, body_length, decode, encode
from sona_shm.loops.learn_result import HeadResult, LearnResult, load_result, store_result
from sona_shm.shm.layout import LARGEST_ROUTES

CONFIG = sona.SonaConfig(hidden_dim=6, routes=(sona.Route("a"), sona.Route("b")), max_routes=2)
GEOMETRY = CONFIG.geometry()


def findings(rng: np.random.Generator) -> Findings:
    fit = fit_patterns(rng.standard_normal((60, 6)).astype(np.float32), 5, seed=1)
    heads = {0: HeadRefit(70, -0.25, None), 1: HeadRefit(80, 0.5, np.ones(6, np.float32))}
    return Findings(60, 3, fit, 5, 1, 0, 0.25, heads, {"reading": 0.5})


def received(data: bytes) -> Findings:
    header, body = data[: HEADER.size], data[HEADER.size :]
    return decode(header, body[: body_length(header, GEOMETRY)], GEOMETRY)


def changed(data: bytes, change: dict[str, Any]) -> bytes:
    """With another body, and the checksum of that."""
    body = msgpack.unpackb(data[HEADER.size :], strict_map_key=False) | change
    packed: bytes = msgpack.packb(body)
    magic, _, _ = HEADER.unpack(data[: HEADER.size])
    return HEADER.pack(magic, len(packed), zlib.crc32(packed)) + packed


def test_findings_arrive_as_they_were_sent(rng: np.random.Generator) -> None:
    sent = findings(rng)
    got = received(encode(sent))
    assert sent.fit is not None
    assert got.fit is not None
    for name in ("rows", "refits", "found", "pruned", "merged", "improvement", "seconds"):
        assert getattr(got, name) == getattr(sent, name)
    np.testing.assert_array_equal(got.fit.projection.matrix, sent.fit.projection.matrix)
    np.testing.assert_array_equal(got.fit.full_centroids, sent.fit.full_centroids)
    np.testing.assert_allclose(got.fit.centroids, sent.fit.centroids, atol=1e-6)
    np.testing.assert_array_equal(got.fit.sizes, sent.fit.sizes)
    assert (got.heads[0].rows, got.heads[0].change) == (70, None)
    np.testing.assert_array_equal(got.heads[1].change, np.ones(6))
    empty = received(encode(Findings(0, 0)))
    assert (empty.fit, empty.heads) == (None, {})


def test_any_changed_byte_is_refused(rng: np.random.Generator) -> None:
    data = encode(findings(rng))
    for _ in range(300):
        torn = bytearray(data)
        torn[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(BadFindings):
            received(bytes(torn))


def test_any_part_of_an_answer_is_refused(rng: np.random.Generator) -> None:
    data = encode(findings(rng))
    for cut in (0, 1, HEADER.size - 1, HEADER.size, len(data) // 2, len(data) - 1):
        with pytest.raises(BadFindings):
            received(data[:cut])


@pytest.mark.parametrize(
    "change",
    [
        {"rows": -1},
        {"rows": "many"},
        {"rows": 2**64 - 1},
        {"fit": []},
        {"fit": [b"", b"", b"", b""]},
        {"fit": 7},
        {"heads": {2: [1, 0.0, None]}},
        {"heads": {-1: [1, 0.0, None]}},
        {"heads": {"a": [1, 0.0, None]}},
        {"heads": {0: [1, 0.0, b"1234"]}},
        {"heads": {0: [1, 0.0, np.full(6, np.nan, "<f4").tobytes()]}},
        {"heads": {0: [1]}},
        {"heads": None},
        {"heads": {0: [1, float("nan"), None]}},
        {"improvement": float("inf")},
        {"heads": {0: [1, float("inf"), None]}},
        {"improvement": float("nan")},
        {"seconds": {"reading": "long"}},
        {"seconds": {"reading": float("nan")}},
    ],
)
def test_what_no_cycle_could_have_found_is_refused(
    rng: np.random.Generator, change: dict[str, Any]
) -> None:
    with pytest.raises(BadFindings):
        received(changed(encode(findings(rng)), change))


def test_a_fit_of_another_engine_is_refused(rng: np.random.Generator) -> None:
    sent = findings(rng)
    assert sent.fit is not None
    fit = dataclasses.replace(sent.fit, full_centroids=np.full((5, 6), np.inf, np.float32))
    with pytest.raises(BadFindings, match="finite"):
        received(encode(dataclasses.replace(sent, fit=fit)))
    wide = fit_patterns(rng.standard_normal((60, 7)).astype(np.float32), 5, seed=1)
    with pytest.raises(BadFindings):
        received(encode(dataclasses.replace(sent, fit=wide)))


def test_a_length_that_no_answer_has_is_refused_before_it_is_read() -> None:
    magic, _, _ = HEADER.unpack(encode(Findings(0, 0))[: HEADER.size])
    with pytest.raises(BadFindings, match="at most"):
        body_length(HEADER.pack(magic, 1 << 40, 0), GEOMETRY)
    with pytest.raises(BadFindings):
        body_length(HEADER.pack(b"GET / HT", 10, 0), GEOMETRY)


def test_the_largest_result_fits_where_requesters_look(name: str) -> None:
    """A word for each of the most routes, and a reason longer than anybody reads."""
    heads = tuple(HeadResult(route, 2**32, -0.5, True) for route in range(LARGEST_ROUTES))
    seconds = dict.fromkeys((*TIMED, "repeating", "installing"), 0.5)
    result = LearnResult("failed", "\N{SNOWMAN}" * 50_000, heads=heads, seconds=seconds)
    with sona.Engine.create(name, CONFIG) as engine:
        store_result(engine._memory, result)
        loaded = load_result(engine._memory)
    assert loaded is not None
    assert (loaded.heads, loaded.seconds) == (heads, seconds)
    assert 100 < len(loaded.reason) < len(result.reason)
