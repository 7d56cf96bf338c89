"""Workers that come into being by fork, spawn or forkserver."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

import pytest

import sona_shm as sona
from sona_shm.shm.waiting import wait_until
from tests.children import PATIENCE, SMALL, hear, run, start, tell, trajectory
from tests.children import end as end_child
from tests.conftest import leftovers
from tests.torture.processes import Child


def lane_owners(engine: sona.Engine) -> list[int]:
    """Process ids of the living owners of lanes."""
    return sorted(lane.pid for lane in engine.stats().lanes if lane.alive)


def test_children_forked_after_attach_take_lanes_of_their_own(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        assert engine.record(trajectory())
        parent_lane = engine.instant._lane_index
        told, tell_children = os.pipe()
        heard, say = os.pipe()

        def body(count: int) -> None:
            for _ in range(count):
                assert engine.record(trajectory())
            assert engine.instant._lane_index != parent_lane
            os.write(say, bytes([engine.instant._lane_index]))
            os.read(told, 1)  # all are alive at once

        children = [Child(body, 10 + i) for i in range(3)]
        lanes = {parent_lane} | {os.read(heard, 1)[0] for _ in children}
        assert engine.record(trajectory())
        assert lanes == set(range(4))
        assert lane_owners(engine) == sorted([os.getpid(), *(child.pid for child in children)])
        with sona.Engine.attach(name) as fifth, pytest.raises(sona.NoFreeLaneError, match="4"):
            fifth.record(trajectory())
        os.write(tell_children, b"...")
        assert [child.join() for child in children] == [0, 0, 0]
        assert engine.stats().recorded == 2 + 10 + 11 + 12
        assert engine.stats().retired.recorded == 10 + 11 + 12
        for descriptor in (told, tell_children, heard, say):
            os.close(descriptor)


def test_a_forked_child_can_route_apply_and_close(name: str) -> None:
    with sona.Engine.create(name, SMALL, learner="inline") as engine:
        decision = engine.route([0.5] * 8)

        def body() -> None:
            assert engine.feedback(decision.id, 0.9)  # the parent's decision
            assert engine.feedback(engine.route([0.5] * 8).id, 0.8)
            assert engine.apply([1.0] * 8).shape == (8,)
            assert engine.stats().recorded == 2
            with pytest.raises(sona.NotTheLearner):
                engine.instant.drain_trajectories()
            engine.close()
            with pytest.raises(sona.EngineClosed):
                engine.apply([1.0] * 8)

        assert Child(body).join() == 0
        engine.flush()
        assert engine.instant.metrics.outcomes_learned == 2
        assert engine.record(trajectory())


@pytest.mark.parametrize("learner", ["None", "'inline'", "'thread'"])
def test_forked_children_end_without_complaint(name: str, learner: str) -> None:
    """`sys.exit` in the child runs all finalizers of the interpreter there."""
    output = run(
        f"""
        engine = sona.Engine.create(name, sona.SonaConfig(hidden_dim=8), learner={learner})
        record(engine)
        child = os.fork()
        if child == 0:
            record(engine)
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        record(engine)
        if engine.stats().learner_alive:
            assert engine.flush(10.0)
        engine.close()
        say("done")
        """,
        name,
    )
    assert output == "done\n"
    with sona.Engine.attach(name) as engine:
        assert engine.stats().recorded == 3


def record_five(engine: sona.Engine) -> None:
    for _ in range(5):
        assert engine.record(trajectory())


def test_fork_while_a_thread_learns(name: str) -> None:
    with sona.Engine.create(name, SMALL, learner="thread") as engine:
        for _ in range(20):
            for _ in range(20):
                assert engine.record(trajectory())
            child = Child(record_five, engine)
            assert child.join() == 0
        assert engine.flush(PATIENCE)
        assert engine.instant.metrics.trajectories_processed == 20 * 25
        assert engine.stats().learner_alive


def test_the_lane_of_a_dead_parent_falls_free_though_its_child_lives(name: str) -> None:
    engine = sona.Engine.create(name, SMALL)
    parent = start(
        """
        engine = sona.Engine.attach(name, learner="inline")
        record(engine)
        if os.fork() == 0:
            say(str(os.getpid()))
            hear()          # lives on, though it was born with copies of the parent's locks
            os._exit(0)
        signal.pause()
        """,
        name,
    )
    try:
        child = int(hear(parent))
        assert lane_owners(engine) == [parent.pid]
        assert engine.stats().learner_alive
        parent.kill()
        parent.wait(PATIENCE)
        os.kill(child, 0)  # still there
        assert lane_owners(engine) == []
        assert not engine.stats().learner_alive
        engine.instant.become_learner()
    finally:
        end_child(parent)
        engine.close()


def test_programs_that_a_worker_starts_do_not_hold_its_locks(name: str) -> None:
    engine = sona.Engine.create(name, SMALL)
    worker = start(
        """
        import subprocess
        engine = sona.Engine.attach(name, learner="inline")
        record(engine)
        child = subprocess.Popen(["sleep", "600"], close_fds=False, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        say(str(child.pid))
        signal.pause()
        """,
        name,
    )
    sleeper = 0
    try:
        sleeper = int(hear(worker))
        assert lane_owners(engine) == [worker.pid]
        worker.kill()
        worker.wait(PATIENCE)
        os.kill(sleeper, 0)
        assert lane_owners(engine) == []
        assert not engine.stats().learner_alive
    finally:
        if sleeper:
            os.kill(sleeper, signal.SIGKILL)
        end_child(worker)
        engine.close()


def test_a_stopped_worker_keeps_its_lane_and_stalls_nobody(name: str) -> None:
    with sona.Engine.create(name, SMALL, learner="thread") as engine:
        worker = start("engine = sona.Engine.attach(name); record(engine); say('on'); hear()", name)
        try:
            hear(worker)
            worker.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, worker.pid, os.WSTOPPED)
            assert lane_owners(engine) == [worker.pid]
            for _ in range(50):
                assert engine.record(trajectory())
            assert engine.flush(PATIENCE)
            assert engine.instant.metrics.trajectories_processed == 51
            assert lane_owners(engine) == sorted([worker.pid, os.getpid()])
            worker.send_signal(signal.SIGCONT)
            tell(worker)
            assert worker.wait(PATIENCE) == 0
            assert wait_until(lambda: lane_owners(engine) == [os.getpid()], PATIENCE)
        finally:
            end_child(worker)


def work_in_child(name: str, pipe: Connection) -> None:
    """Top level, so that spawn and forkserver can import it."""
    with sona.Engine.attach(name) as engine:
        decision = engine.route([0.5] * 8)
        pipe.send((engine.feedback(decision.id, 0.9), engine.instant._lane_index))
        pipe.recv()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_start_method(name: str, method: str) -> None:
    context = multiprocessing.get_context(method)
    with sona.Engine.create(name, SMALL, learner="inline") as engine:
        pairs = [context.Pipe() for _ in range(2)]
        workers = [
            context.Process(  # type: ignore[attr-defined]  # every context has it
                target=work_in_child, args=(name, there)
            )
            for _, there in pairs
        ]
        for worker in workers:
            worker.start()
        answers = []
        for here, _ in pairs:
            assert here.poll(PATIENCE)
            answers.append(here.recv())
        assert all(done for done, _ in answers)
        assert len({lane for _, lane in answers}) == 2
        for here, _ in pairs:
            here.send("go on")
        for worker in workers:
            worker.join(PATIENCE)
            assert worker.exitcode == 0
        engine.flush()
        assert engine.instant.metrics.outcomes_learned == 2
    assert len(leftovers(name)) == 4  # nobody unlinked anything


def test_a_fork_of_a_stand_alone_loop_leaves_the_engine_to_its_parent() -> None:
    output = run(
        """
        loop = sona.InstantLoop(8)
        t = sona.QueryTrajectory(1, [0.1] * 8).finalize(0.5)
        assert loop.on_trajectory(t)
        for ending in ("close", "collect", "exit"):
            child = os.fork()
            if child == 0:
                if ending == "close":
                    loop.close()
                if ending == "collect":
                    del loop
                sys.exit(0)
            assert os.waitpid(child, 0)[1] == 0, ending
            sona.Engine.attach(loop._memory.names.engine).close()
        say(loop._memory.names.engine)
        """,
        "unused",
    )
    assert leftovers(output.strip()) == []


def test_a_child_of_a_child_works_too(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:

        def grandchild() -> None:
            assert engine.record(trajectory())

        def child() -> None:
            assert engine.record(trajectory())
            assert Child(grandchild).join() == 0
            assert engine.record(trajectory())

        assert engine.record(trajectory())
        assert Child(child).join() == 0
        assert engine.stats().recorded == 4
