"""sona doctor: what it finds in a host's shared memory, and that nothing found there stops it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.monitor import diagnosis
from sona_shm.monitor.diagnosis import Finding
from sona_shm.monitor.host import HostEngine, look_at_host
from sona_shm.monitor.surroundings import room_findings
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.locks import LifecycleLock
from sona_shm.shm.names import names_of
from sona_shm.shm.segment import create_segment
from sona_shm.shm.waiting import wait_until
from tests.children import PATIENCE, SMALL, end, hear, start, trajectory
from tests.conftest import leftovers
from tests.private_shm import run_in_private_shm
from tests.test_cli import sona_command


def look(name: str) -> HostEngine:
    (engine,) = look_at_host([name]).engines
    return engine


def problems(name: str) -> list[str]:
    return [finding.text for finding in look(name).findings if finding.problem]


def finding(name: str, text: str) -> Finding:
    (found,) = [finding for finding in look(name).findings if text in finding.text]
    return found


@contextmanager
def worker(name: str) -> Iterator[None]:
    """A living process that has recorded once."""
    child = start("engine = sona.Engine.attach(name); record(engine); say('on'); hear()", name)
    try:
        hear(child)
        yield
    finally:
        end(child)


# ---- states ----


def test_an_absent_engine_is_no_finding_and_an_error_by_name(name: str) -> None:
    assert look_at_host([name]).engines == []
    done = sona_command("doctor", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no engine '{name}' on this host" in done.stderr


def test_an_engine_with_workers_and_a_learner_is_healthy(name: str) -> None:
    with sona.Engine.create(name, SMALL, learner="inline") as engine, worker(name):
        assert engine.record(trajectory())
        engine.flush()
        seen = look(name)
        assert (seen.state, seen.in_use, seen.is_dead) == ("in use", True, False)
        assert seen.stats is not None
        ages = {
            age: getattr(seen.stats, age) for age in ("seconds_since_publish", "learner_seconds")
        }
        assert seen.stats == dataclasses.replace(engine.stats(), **ages)
        assert problems(name) == []
        done = sona_command("doctor", name)
    assert done.returncode == 0, done.stdout
    for part in (name, "2 workers", "nothing is wrong", " ago"):
        assert part in done.stdout


def test_workers_without_a_learner_are_a_problem(name: str) -> None:
    with sona.Engine.create(name, SMALL), worker(name):
        found = finding(name, "nobody learns")
        assert found.problem
        assert found.remedy == f"sona learner {name}"
        assert look(name).state == "in use"


def test_a_learner_that_is_stopped_is_a_problem(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_STALLED_SECONDS", 0.0)
    with sona.Engine.create(name, SMALL, learner="process") as engine:
        assert engine.flush(PATIENCE)
        learner = engine.stats().learner_pid
        os.kill(learner, signal.SIGSTOP)
        try:
            assert wait_until(lambda: "T (stopped)" in status_of(learner), PATIENCE)
            assert engine.record(trajectory())
            assert finding(name, f"learner {learner} lives").problem
        finally:
            os.kill(learner, signal.SIGCONT)


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def test_an_idle_engine_is_a_note(name: str) -> None:
    with sona.Engine.create(name, SMALL, learner="inline") as engine:
        for _ in range(7):
            assert engine.feedback(engine.route([0.3] * 8).id, 0.7)
    seen = look(name)
    assert (seen.state, seen.is_dead) == ("idle", True)
    assert seen.stats is not None
    assert seen.stats.counters.outcomes_learned == 7
    assert seen.created is not None
    assert problems(name) == []
    assert finding(name, "nobody uses it").remedy == f"sona learner {name}, or sona destroy {name}"


def test_half_made_and_being_made_are_told_apart(name: str) -> None:
    create_segment(names_of(name).control, 1 << 16).close()
    assert look(name).state == "half-made"
    assert problems(name) == ["its creator died before it was ready"]
    with LifecycleLock(names_of(name), 1.0):
        seen = look(name)
        assert (seen.state, seen.is_dead) == ("being made", False)
        assert problems(name) == []


@pytest.mark.parametrize("part", ["ring", "weights", "semaphore", "lifecycle"])
def test_parts_without_an_engine_are_leftovers(name: str, part: str) -> None:
    names = names_of(name)
    prefix = "sem." if part == "semaphore" else ""
    file = Path("/dev/shm", prefix + getattr(names, part)[1:])
    file.touch(0o600)
    seen = look(name)
    assert (seen.state, seen.files) == ("leftover", [file.name])
    (found,) = seen.findings
    assert str(file) in found.text
    assert found.remedy == "sona destroy --dead"


def test_a_lock_that_somebody_holds_is_no_leftover(name: str) -> None:
    with LifecycleLock(names_of(name), 1.0):
        assert look(name).state == "being made"


def patch_control(name: str, field: str, value: int) -> None:
    with Path(f"/dev/shm/sona-{name}.c").open("r+b") as file:
        file.seek(OFFSETS[field])
        file.write(struct.pack("<Q", value))


@pytest.mark.parametrize(
    ("field", "state", "text"),
    [
        ("segment_identity.layout_version", "other layout", "has layout version 999"),
        ("segment_identity.magic", "corrupt", "is no control segment"),
        ("control_header.hidden_dim", "corrupt", ""),
        ("control_header.config_checksum", "corrupt", "checksum"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_users(
    name: str, field: str, state: str, text: str
) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        engine.record(trajectory())
        patch_control(name, field, 999)
        seen = look(name)
        assert (seen.state, seen.in_use, seen.is_dead) == (state, True, False)
        assert seen.findings[0].remedy == f"stop its processes, then sona destroy {name}"
    seen = look(name)
    assert (seen.state, seen.in_use, seen.is_dead) == (state, False, True)
    assert text in seen.findings[0].text


def test_looking_writes_nothing(name: str) -> None:
    with sona.Engine.create(name, SMALL, learner="inline") as engine, worker(name):
        engine.flush()
        files = sorted(Path("/dev/shm").glob(f"*{name}*"))
        before = [file.read_bytes() for file in files]
        assert look(name).state == "in use"
        assert [file.read_bytes() for file in files] == before
        assert sorted(Path("/dev/shm").glob(f"*{name}*")) == files


# ---- in depth ----


def test_feedback_that_came_too_late(name: str) -> None:
    with sona.Engine.create(name, SMALL, learner="inline") as engine:
        first = engine.route([0.3] * 8).id
        for _ in range(SMALL.pending_decisions):
            engine.route([0.3] * 8)
        assert engine.feedback(first, 0.5)
        assert engine.feedback(12345, 0.5)
        found = finding(name, "feedback_expired 1")
        assert found.problem
        assert f"sona restore {name} FILE --replace --set pending_decisions=128" in found.remedy
        assert finding(name, "feedback_unknown 1")


def test_lanes_that_are_full_and_used_up(name: str) -> None:
    config = sona.SonaConfig(hidden_dim=8, trajectory_capacity=20, max_workers=2)
    with sona.Engine.create(name, config) as engine, worker(name):
        while engine.record(trajectory(config)):
            pass
        assert finding(name, "is full").problem
        refused = finding(name, "dropped 1: a lane was full")
        assert "trajectory_capacity=40" in refused.remedy
        used_up = finding(name, "2 of 2 lanes have a living worker")
        assert used_up.problem
        assert "max_workers=4" in used_up.remedy


def test_a_quarantined_lane(name: str) -> None:
    with sona.Engine.create(name, SMALL, learner="inline") as engine:
        assert engine.record(trajectory())
        head = OFFSETS["lane_header.head"] + engine._memory.sizes["lanes_offset"]
        engine._memory.lanes.store(head, 2**62)
        engine.flush()
        assert finding(name, "holds what cannot be").problem
        assert finding(name, "lanes_quarantined 1").problem


def test_few_losses_are_notes_and_many_are_problems(name: str) -> None:
    with sona.Engine.create(name, SMALL, learner="inline") as engine:
        decision = engine.route([0.3] * 8).id
        engine.feedback(decision, 0.5)
        engine.feedback(decision, 0.5)
        assert finding(name, "feedback_duplicate 1").problem
        for _ in range(1100):
            engine.feedback(engine.route([0.3] * 8).id, 0.5)
        assert not finding(name, "feedback_duplicate 1").problem


def test_an_error_s_text_cannot_speak_for_doctor(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        engine._memory.errors.note("refit", "red \x1b[31m\nproblem: of nobody \u202e")
    output = sona_command("doctor", name).stdout
    assert "refit: red ?[31m?problem: of nobody ? (1 times" in output


@pytest.mark.parametrize(
    ("total", "free", "texts"),
    [
        (64 << 20, 60 << 20, ["it has 64 MB in all"]),
        (1 << 30, 1 << 20, ["1,024 of 1,048,576 KB are free"]),
        (1 << 30, 1 << 29, []),
    ],
)
def test_room(total: int, free: int, texts: list[str]) -> None:
    found = list(room_findings(total, free))
    assert [each.text.split(";")[0] for each in found] == texts
    assert all("--shm-size" in each.remedy for each in found)


# ---- anything may be there ----


def test_an_engine_that_says_it_was_destroyed_and_is_there_is_told(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        engine._memory.control.store(OFFSETS["control_header.destroyed"], 1)
        seen = look(name)
        assert (seen.state, seen.in_use) == ("corrupt", False)
        assert "still there" in seen.detail
    sona.Engine.destroy(name)
    assert leftovers(name) == []


def test_random_garbage_is_survived(name: str, rng: np.random.Generator) -> None:
    """Any bytes of any size, and an engine with any of its words spoilt."""
    names = names_of(name)
    for size in (0, 1, 7, 4095, 4096, 5000, 1 << 17):
        Path(f"/dev/shm/sona-{name}.c").write_bytes(rng.bytes(size))
        seen = look(name)
        assert seen.state in ("half-made", "corrupt", "other layout")
        assert not seen.in_use
    Path(f"/dev/shm/sona-{name}.c").unlink()
    for _ in range(60):
        sona.Engine.create(name, SMALL).close()
        for segment in names.segments:
            file = Path("/dev/shm", segment[1:])
            with file.open("r+b") as open_file:
                open_file.seek(int(rng.integers(min(file.stat().st_size, 8192))))
                open_file.write(rng.bytes(int(rng.integers(1, 64))))
        look(name)
        sona.Engine.destroy(name)
    assert leftovers(name) == []


STRANGE = """
import json, socket
from pathlib import Path
from sona_shm.cli.main import main

def make(path): return Path("/dev/shm", path)
make("sona-dir.c").mkdir()
make("sona-link.c").symlink_to("/etc/passwd")
make("sona-loop.c").symlink_to("/dev/shm/sona-loop.c")
os.mkfifo(make("sona-fifo.c"))
with socket.socket(socket.AF_UNIX) as bound:
    bound.bind(str(make("sona-socket.c")))
with make("sona-huge.c").open("wb") as file:
    file.truncate(1 << 50)
make("sona-ring.c").write_bytes(bytes(1 << 13))
make("sona-ring.r").mkdir()
make("sona-odd\\n\\033[31m.c").touch()
os.close(os.open(b"/dev/shm/sona-\\xff.c", os.O_CREAT))
make("sem.abcDEF").write_bytes(bytes(32))
make("sona-" + "x" * 200 + ".c").touch()
before = sorted(os.listdir(b"/dev/shm"))
assert main(["doctor"]) == 1
assert main(["doctor", "--json"]) == 1
assert main(["doctor", "huge"]) == 1
assert sorted(os.listdir(b"/dev/shm")) == before
"""


def test_strange_files_are_reported_and_left_alone() -> None:
    table, _, rest = run_in_private_shm(STRANGE).partition("\nproblem: ")
    assert "huge" in table
    text, _, rest = rest.partition('\n{"total_bytes"')
    for file in ("dir.c", "link.c", "loop.c", "fifo.c", "socket.c", "ring.r"):
        assert f"rm -ri /dev/shm/sona-{file}" in text
    assert "\033" not in text
    assert "rm -i /dev/shm/sem.abcDEF" in text
    assert "it has 1 MB in all" in text
    report = json.loads('{"total_bytes"' + rest.splitlines()[0])
    assert {engine["name"]: engine["state"] for engine in report["engines"]} == {
        "huge": "corrupt",
        "ring": "half-made",
    }
    assert report["healthy"] is False


def test_an_empty_host_is_healthy() -> None:
    output = run_in_private_shm(
        "from sona_shm.cli.main import main\nassert main(['doctor']) == 0", size="1g"
    )
    assert output == "/dev/shm: 1,074 of 1,074 MB free\n\nnothing is wrong\n"


def test_files_that_vanish_while_looked_at(name: str) -> None:
    """Another process creates and destroys all the time."""
    child = start(
        """
        config = sona.SonaConfig(hidden_dim=8, max_workers=1)
        say("on")
        while True:
            sona.Engine.create(name, config).close()
            sona.Engine.destroy(name)
        """,
        name,
    )
    try:
        hear(child)
        states: set[str] = set()
        for turn in range(30_000):
            if turn >= 300 and {"being made", "idle"} & states:
                break
            for engine in look_at_host([name]).engines:
                states.add(engine.state)
    finally:
        end(child)
    assert {"being made", "idle"} & states
    assert not {"corrupt", "other layout", "no access"} & states


def test_a_private_engine_of_a_killed_loop() -> None:
    output = run_in_private_shm(
        """
from sona_shm.cli.main import main
if os.fork() == 0:
    loop = sona.InstantLoop(8)
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
with sona.InstantLoop(8) as alive:
    assert main(["doctor"]) == 1
""",
        size="1g",
    )
    assert output.count("a stand-alone loop that was killed left it\n    sona destroy loop-") == 1
