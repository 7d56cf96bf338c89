"""The journal: what is written is read, whatever happened to the writer or the file."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

import sona_shm as sona
from sona_shm.journal.format import decision_dtype, outcome_dtype
from sona_shm.journal.writer import JournalWriter
from sona_shm.shm.waiting import wait_until

DIM = 6
HEADER = {"routes": [{"name": "a", "cost": 0.0}, {"name": "b", "cost": 1.0}], "hidden_dim": DIM}


def rows(rng: np.random.Generator, first: int, count: int) -> tuple[Any, Any]:
    """Decisions and an outcome for each."""
    decisions = np.zeros(count, decision_dtype(DIM, 1))
    decisions["id"] = np.arange(first, first + count)
    decisions["time_ns"] = 1000 + decisions["id"]
    decisions["route"] = rng.integers(2, size=count)
    decisions["propensity"] = rng.uniform(0.1, 1.0, count)
    decisions["allowed"] = 3
    decisions["embedding"] = rng.standard_normal((count, DIM))
    outcomes = np.zeros(count, outcome_dtype())
    outcomes["id"] = decisions["id"]
    outcomes["route"] = decisions["route"]
    outcomes["quality"] = rng.random(count)
    outcomes["reward"] = outcomes["quality"] - 0.1
    return decisions, outcomes


def test_what_was_written_is_read(tmp_path: Path, rng: np.random.Generator) -> None:
    decisions, outcomes = rows(rng, 1, 100)
    with JournalWriter(tmp_path, HEADER) as writer:
        for part in range(10):
            piece = slice(10 * part, 10 * part + 10)
            writer.append(decisions[piece], outcomes[piece][:7])
        assert (writer.written, writer.dropped) == (170, 0)
    journal = sona.read_journal(tmp_path)
    assert len(journal) == 100
    np.testing.assert_array_equal(journal.embedding, decisions["embedding"])
    np.testing.assert_array_equal(journal.route, decisions["route"])
    np.testing.assert_allclose(journal.propensity, decisions["propensity"])
    assert int(np.isfinite(journal.quality).sum()) == 70
    assert journal.allowed.all()
    assert (journal.torn, journal.corrupt, journal.duplicates, journal.orphans) == (0, 0, 0, 0)


def test_any_msgpack_reader_can_go_through_a_file(tmp_path: Path, rng: np.random.Generator) -> None:
    with JournalWriter(tmp_path, HEADER) as writer:
        writer.append(*rows(rng, 1, 2))
    (file,) = tmp_path.iterdir()
    with file.open("rb") as stream:
        header, (_, batch) = msgpack.Unpacker(stream)
    unpacker = msgpack.Unpacker()
    unpacker.feed(batch)
    kinds = [record[0] for record in unpacker]
    assert header["format"] == "sona_shm journal"
    assert kinds == ["decision", "decision", "outcome", "outcome"]


def test_files_are_rotated(tmp_path: Path, rng: np.random.Generator) -> None:
    with JournalWriter(tmp_path, HEADER, rotate_bytes=1000) as writer:
        for first in range(1, 101, 10):
            writer.append(*rows(rng, first, 10))
    journal = sona.read_journal(tmp_path)
    assert journal.files > 3
    assert len(journal) == 100
    (newest, *_) = sorted(tmp_path.iterdir(), reverse=True)
    assert oct(newest.stat().st_mode & 0o777) == "0o600"


def test_a_file_cut_anywhere_loses_its_last_batch_only(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    with JournalWriter(tmp_path, HEADER) as writer:
        for first in range(1, 41, 10):
            writer.append(*rows(rng, first, 10))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    unpacker = msgpack.Unpacker()
    unpacker.feed(whole)
    unpacker.unpack()
    header_bytes = unpacker.tell()
    seen = set()
    for cut in sorted({*rng.integers(header_bytes, len(whole), 200).tolist(), len(whole) - 1}):
        file.write_bytes(whole[:cut])
        journal = sona.read_journal(tmp_path)
        assert len(journal) % 10 == 0, "batches are whole or not there"
        assert journal.corrupt == 0
        seen.add(len(journal))
    assert seen == {0, 10, 20, 30}


def test_a_flipped_bit_breaks_no_more_than_it_must(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    with JournalWriter(tmp_path, HEADER) as writer:
        for first in range(1, 41, 10):
            writer.append(*rows(rng, first, 10))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    start = whole.index(b"decision")
    for place in rng.integers(start, len(whole), 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        journal = sona.read_journal(tmp_path)
        assert journal.corrupt + journal.torn > 0
        assert len(journal) % 10 == 0


def test_what_was_written_twice_is_read_once(tmp_path: Path, rng: np.random.Generator) -> None:
    batch = rows(rng, 1, 10)
    for _ in range(2):
        with JournalWriter(tmp_path, HEADER) as writer:
            writer.append(*batch)
    journal = sona.read_journal(tmp_path)
    assert (len(journal), journal.duplicates) == (10, 20)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal-1.msgpack"
    path.write_bytes(msgpack.packb({"format": "something else"}))
    with pytest.raises(sona.JournalError, match="no journal"):
        sona.read_journal(path)


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_a_file_without_a_whole_header_is_no_journal(tmp_path: Path, cut: int) -> None:
    JournalWriter(tmp_path, HEADER).close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(sona.JournalError, match="whole header"):
        sona.read_journal(tmp_path)


def test_bytes_that_are_no_journal_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    for _ in range(200):
        path = tmp_path / "journal-1.msgpack"
        path.write_bytes(rng.bytes(300))
        with pytest.raises(sona.JournalError):
            sona.read_journal(path)


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(sona.JournalError, match="cannot write"):
        JournalWriter(tmp_path / "file", HEADER)


def test_a_full_disk_drops_batches_and_breaks_none(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """A limit on the size of files answers like a full disk, in the middle of a batch."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        with JournalWriter(tmp_path, HEADER) as writer:
            for first in range(1, 201, 10):
                writer.append(*rows(rng, first, 10))
            os._exit(0 if writer.dropped and writer.written else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    journal = sona.read_journal(tmp_path)
    assert 0 < len(journal) < 200
    assert journal.corrupt == 0
    assert journal.torn > 0


# ---- an engine's ----


def config_of(**settings: Any) -> sona.SonaConfig:
    routes = [sona.Route("a"), sona.Route("b", 0.5), sona.Route("c", 1.0)]
    return sona.SonaConfig(hidden_dim=DIM, routes=routes, cost_weight=0.1, **settings)


@pytest.mark.parametrize("learner", ["inline", "thread", "process"])
def test_every_decision_and_outcome_is_journaled(
    name: str, tmp_path: Path, rng: np.random.Generator, learner: Any
) -> None:
    made = []
    with sona.Engine.create(name, config_of(), learner, journal=tmp_path) as engine:
        for i in range(200):
            x = rng.standard_normal(DIM)
            allowed = ["a", "c"] if i % 3 == 0 else None
            decision = engine.route(x, allowed)
            if i % 2:
                engine.feedback(decision.id, 0.75, latency_ms=12.0, tokens=7)
            made.append((decision, allowed))
        assert engine.flush(10.0)
        assert engine.stats().counters.journal_missed == 0
    journal = sona.read_journal(tmp_path)
    assert journal.id.tolist() == [decision.id for decision, _ in made]
    for i, (decision, allowed) in enumerate(made):
        assert journal.route[i] == decision.index
        assert journal.propensity[i] == pytest.approx(decision.propensity, rel=1e-6)
        assert journal.allowed[i].tolist() == [True, allowed is None, True]
    assert np.isfinite(journal.quality).tolist() == [bool(i % 2) for i in range(200)]
    prices = np.array([0.0, 0.05, 0.1])[journal.route[1::2]]
    np.testing.assert_allclose(journal.reward[1::2], 0.75 - prices, rtol=1e-6)


def test_decisions_that_were_overwritten_before_are_counted(name: str, tmp_path: Path) -> None:
    with sona.Engine.create(name, config_of(pending_decisions=8)) as engine:
        for _ in range(20):
            engine.route(np.ones(DIM))
        with sona.Learner(name, options=sona.LearnerOptions(tmp_path)):
            pass
        assert engine.stats().counters.journal_missed == 12
    assert len(sona.read_journal(tmp_path)) == 8


def test_routes_that_come_later_are_in_the_journal(name: str, tmp_path: Path) -> None:
    with sona.Engine.create(name, config_of(), "inline", journal=tmp_path) as engine:
        engine.route(np.ones(DIM))
        engine.add_route(sona.Route("d", 0.25))
        decision = engine.route(np.ones(DIM), allowed=["d"])
        engine.feedback(decision.id, 0.5)
    journal = sona.read_journal(tmp_path)
    assert [route["name"] for route in journal.header["routes"]] == ["a", "b", "c", "d"]
    assert journal.allowed[1].tolist() == [False, False, False, True]


def test_a_learner_that_cannot_journal_does_not_begin(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(sona.JournalError, match="cannot write"):
        sona.Engine.create(name, config_of(), "inline", journal=tmp_path / "file")
    with pytest.raises(sona.EngineNotFound):
        sona.Engine.attach(name)


def test_a_journal_without_a_learner_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(sona.ConfigError, match="learner"):
        sona.Engine.create(name, config_of(), journal=tmp_path)


def test_a_killed_learner_process_has_journaled_what_it_published(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    with sona.Engine.create(name, config_of(), "process", journal=tmp_path) as engine:
        ids = []
        for _ in range(50):
            decision = engine.route(rng.standard_normal(DIM))
            assert engine.feedback(decision.id, 0.5)
            ids.append(decision.id)
        learned = engine.stats
        assert wait_until(lambda: learned().counters.outcomes_learned == 50, 10.0)
        os.kill(engine.stats().learner_pid, signal.SIGKILL)
        journal = sona.read_journal(tmp_path)
    assert journal.id.tolist() == ids
    assert np.all(np.isfinite(journal.quality))
