"""From create to destroy: who may, who finds what, and that nothing is ever left or lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import posix_ipc
import pytest

import sona_shm as sona
from sona_shm.learner import run as run_learner
from sona_shm.shm.locks import LifecycleLock
from sona_shm.shm.names import names_of
from sona_shm.shm.segment import create_segment
from sona_shm.shm.waiting import wait_until
from tests.children import PATIENCE, SMALL, end, finish, hear, start, tell, trajectory
from tests.children import run as run_child
from tests.conftest import leftovers
from tests.torture.processes import Child, Table, busy_delay

# ---- races ----


def race(name: str, table: Table, row: int, seed: int, actions: int) -> None:
    """Create, attach, destroy at random, and count what came of it."""
    rng = np.random.default_rng(seed)
    cells = table.writer(row)
    for _ in range(actions):
        action = int(rng.integers(3))
        try:
            if action == 0:
                with sona.Engine.create(name, SMALL, replace=bool(rng.integers(2))) as engine:
                    engine.record(trajectory())
            elif action == 1:
                with sona.Engine.attach(name) as engine:
                    engine.record(trajectory())
            else:
                sona.Engine.destroy(name)
            cells["good"][0] += 1
        except sona.EngineExists:
            cells["exists"][0] += 1
        except sona.EngineNotFound:
            cells["absent"][0] += 1


def test_races_leave_nothing_behind(name: str, rng: np.random.Generator) -> None:
    """Nobody was killed, so nobody may be told of a half-made engine or a corrupt one."""
    table = Table(4, ("good", "exists", "absent"))
    seeds = rng.integers(2**32, size=4)
    racers = [Child(race, name, table, row, int(seed), 400) for row, seed in enumerate(seeds)]
    assert [racer.join() for racer in racers] == [0] * 4
    assert int(table.column("good").sum()) >= 200
    assert int(table.column("exists").sum()) > 0
    assert int(table.column("absent").sum()) > 0
    with suppress(sona.EngineNotFound):
        sona.Engine.destroy(name)
    assert leftovers(name) == []
    assert list(Path("/dev/shm").glob(f"*{name}*")) == []


# ---- creators that die ----


def test_creators_killed_at_random_moments(name: str, rng: np.random.Generator) -> None:
    """Whatever they leave: attach says what it is, create replaces it, destroy removes it."""
    found = {"absent": 0, "half-made": 0, "ready": 0}
    for turn in range(2000):
        if turn >= 120 and found["half-made"]:
            break
        creator = Child(lambda: sona.Engine.create(name, SMALL).close())
        busy_delay(float(rng.uniform(0.0, 0.004)))
        creator.kill()
        try:
            sona.Engine.attach(name).close()
            state = "ready"
        except sona.EngineNotFound:
            state = "absent"
        except sona.EngineNotReady as error:
            assert "half-made" in str(error)
            state = "half-made"
        found[state] += 1
        if state == "ready":
            sona.Engine.destroy(name)
        elif turn % 2:
            with sona.Engine.create(name, SMALL) as engine:
                assert engine.record(trajectory())
            sona.Engine.destroy(name)
        else:
            try:
                sona.Engine.destroy(name)
                assert state == "half-made"
            except sona.EngineNotFound:
                assert state == "absent"
        assert leftovers(name) == []
    assert found["half-made"] > 0, found


@pytest.mark.parametrize(
    "parts", [["control"], ["control", "ring"], ["control", "ring", "weights"]]
)
@pytest.mark.parametrize("size", [0, 100, 1 << 16])
def test_a_half_made_engine_is_reported_replaced_and_removed(
    name: str, parts: list[str], size: int
) -> None:
    names = names_of(name)

    def make_halves() -> None:
        for part in parts:
            if size:
                create_segment(getattr(names, part), size).close()
            else:  # killed between shm_open and ftruncate
                flags = posix_ipc.O_CREX
                os.close(posix_ipc.SharedMemory(getattr(names, part), flags, 0o600).fd)

    make_halves()
    with pytest.raises(sona.EngineNotReady, match="half-made"):
        sona.Engine.attach(name)
    with sona.Engine.create(name, SMALL, learner="inline") as engine:
        assert engine.record(trajectory())
    sona.Engine.destroy(name)
    make_halves()
    sona.Engine.destroy(name)
    assert leftovers(name) == []


def test_the_lock_of_a_killed_creator_does_not_stay(name: str) -> None:
    child = start(
        """
        from sona_shm.shm.locks import LifecycleLock
        from sona_shm.shm.names import names_of
        lock = LifecycleLock(names_of(name), 5.0)
        say("locked")
        hear()
        """,
        name,
    )
    try:
        hear(child)
        assert leftovers(name) == [names_of(name).lifecycle]
        child.kill()
        child.wait(PATIENCE)
        with sona.Engine.create(name, SMALL) as engine:
            assert engine.record(trajectory())
        sona.Engine.destroy(name)
        assert leftovers(name) == []
    finally:
        end(child)


def test_attach_waits_for_a_bounded_time_while_the_engine_is_made(name: str) -> None:
    names = names_of(name)
    with LifecycleLock(names, 1.0):  # as a creator holds it
        create_segment(names.control, 1 << 16).close()
        with pytest.raises(sona.EngineNotReady, match="still at work"):
            sona.Engine.attach(name, timeout=0.05)


def test_attach_meets_a_creator_at_work(name: str) -> None:
    """A creator that is stopped in the middle is still a creator, not a dead one."""
    creator = start(
        """
        from sona_shm.shm import life_cycle
        build = life_cycle._build
        def slowly(*arguments):
            say("begun")
            hear()
            build(*arguments)
        life_cycle._build = slowly
        engine = sona.Engine.create(name, sona.SonaConfig(hidden_dim=8))
        say("made")
        hear()
        """,
        name,
    )
    waiting = None
    try:
        assert hear(creator) == "begun"
        waiting = start("say('up'); sona.Engine.attach(name, timeout=30).close(); say('on')", name)
        assert hear(waiting) == "up"
        tell(creator)
        assert hear(creator) == "made"
        assert finish(waiting) == "on\n"
        finish(creator)
    finally:
        end(creator)
        if waiting is not None:
            end(waiting)


# ---- names that are taken ----


def test_a_taken_name(name: str) -> None:
    with sona.Engine.create(name, SMALL, learner="inline") as engine:
        engine.record(trajectory())
        for replace in (False, True):
            with pytest.raises(
                sona.EngineInUse, match=f"worker {os.getpid()}, learner {os.getpid()}"
            ):
                sona.Engine.create(name, SMALL, replace=replace)
        assert engine.record(trajectory())
    with pytest.raises(sona.EngineExists, match=r"nobody uses it.*replace=True"):
        sona.Engine.create(name, SMALL)
    with sona.Engine.attach(name) as engine:
        assert engine.stats().recorded == 2
    with sona.Engine.create(name, SMALL, replace=True) as engine:
        assert engine.stats().recorded == 0


def test_a_process_attached_to_a_replaced_engine_is_told(name: str) -> None:
    with (
        sona.Engine.create(name, SMALL) as old,  # holds no lane yet
        sona.Engine.create(name, SMALL, replace=True) as new,
    ):
        assert old._memory.is_destroyed
        assert not new._memory.is_destroyed
        with pytest.raises(sona.EngineNotFound, match="destroyed or replaced"):
            old.record(trajectory())
        with pytest.raises(sona.EngineNotFound, match="destroyed or replaced"):
            old.route([0.5] * 8)
        assert old.apply([1.0] * 8).tolist() == [1.0] * 8  # its memory is still there
        assert new.record(trajectory())
        assert new.stats().recorded == 1


def test_the_learner_of_a_destroyed_engine_ends(name: str) -> None:
    engine = sona.Engine.create(name, SMALL)
    thread = threading.Thread(target=run_learner, args=(name, threading.Event()))
    thread.start()
    assert wait_until(lambda: engine.stats().learner_alive, PATIENCE)
    assert engine.record(trajectory())
    sona.Engine.destroy(name)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    with pytest.raises(sona.EngineNotFound, match="destroyed or replaced"):
        engine.record(trajectory())
    engine.close()
    assert leftovers(name) == []


# ---- processes that end, and the resource tracker ----


@contextmanager
def made(name: str) -> Iterator[sona.Engine]:
    with sona.Engine.create(name, SMALL) as engine:
        assert len(leftovers(name)) == 4
        yield engine
        assert len(leftovers(name)) == 4, "somebody unlinked a part of the engine"
        assert engine.record(trajectory())
        sona.Engine.attach(name).close()


TRACKED = """
from multiprocessing import resource_tracker, shared_memory
other = shared_memory.SharedMemory(create=True, size=64)    # starts this process's tracker
"""


@pytest.mark.parametrize("tracker", ["", TRACKED])
@pytest.mark.parametrize("ending", ["engine.close()", "pass", "del engine"])
def test_attaching_processes_that_end_unlink_nothing(name: str, tracker: str, ending: str) -> None:
    code = f"{tracker}\nengine = sona.Engine.attach(name)\nrecord(engine)\n{ending}\n"
    if tracker:
        code += "other.close(); other.unlink()\n"
    with made(name):
        run_child(code, name)


@pytest.mark.parametrize("tracker", ["", TRACKED])
def test_attaching_processes_that_are_killed_unlink_nothing(name: str, tracker: str) -> None:
    """The tracker outlives its process and cleans up after it: only what is not ours."""
    code = tracker + "\nengine = sona.Engine.attach(name)\nrecord(engine)\nsay('on'); hear()\n"
    with made(name):
        child = start(code, name)
        hear(child)
        child.kill()
        # Both pipes end only when the tracker, which has inherited them, has ended too.
        _, errors = child.communicate(timeout=PATIENCE)
        if tracker:
            assert "There appear to be 1 leaked shared_memory objects" in errors  # `other`
            assert name not in errors
        else:
            assert errors == ""


def test_processes_that_share_a_tracker(name: str) -> None:
    """Creator, forked and spawned children with one tracker: each segment is known to none."""
    run_child(
        TRACKED
        + """
import multiprocessing as mp
from tests.life_cycle_children import attach_and_record

if __name__ == "__main__":
    engine = sona.Engine.create(name, sona.SonaConfig(hidden_dim=8))
    record(engine)
    for method in ("fork", "spawn", "forkserver"):
        children = [mp.get_context(method).Process(target=attach_and_record, args=(name,))
                    for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
    record(engine)
    assert engine.stats().recorded == 8, engine.stats()
    engine.close()
    sona.Engine.destroy(name)
    other.close()
    other.unlink()
""",
        name,
        timeout=60.0,
    )
    assert leftovers(name) == []


def test_a_creator_that_ends_or_is_killed_leaves_its_engine(name: str) -> None:
    run_child("record(sona.Engine.create(name, sona.SonaConfig(hidden_dim=8)))", name)
    assert len(leftovers(name)) == 4
    sona.Engine.destroy(name)
    creator = start(TRACKED + "engine = sona.Engine.create(name, sona.SonaConfig(hidden_dim=8))\n"
                    "record(engine); say('on'); hear()", name)  # fmt: skip
    hear(creator)
    creator.kill()
    creator.communicate(timeout=PATIENCE)
    with sona.Engine.attach(name) as engine:
        assert engine.stats().recorded == 1


def test_a_process_that_cannot_map_an_engine_unlinks_nothing(name: str) -> None:
    with made(name):
        run_child(
            """
            import resource
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
            filler = []
            while True:  # until there is no room to map another segment
                try:
                    filler.append(sona.Engine.attach(name))
                except OSError as error:
                    assert error.errno == 12, error
                    break
            os._exit(0)
            """,
            name,
        )


def test_segments_are_private_at_any_umask(name: str) -> None:
    run_child("os.umask(0); sona.Engine.create(name, sona.SonaConfig(hidden_dim=8)).close()", name)
    entries = [entry for entry in os.scandir("/dev/shm") if name in entry.name]
    assert len(entries) == 4
    assert {entry.stat().st_mode & 0o777 for entry in entries} == {0o600}
