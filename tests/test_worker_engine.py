"""One engine per process and name: threads, forks, engines that go and come back; and learners."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import sona_shm as sona
from sona_shm.checkpoint.saver import CheckpointPlan
from sona_shm.engine.ensure import ensure_engine
from sona_shm.integrations.gunicorn import GunicornHooks
from sona_shm.integrations.learners import LearnerPool
from sona_shm.integrations.worker import worker_engine
from sona_shm.loops.drain import LearnerOptions
from sona_shm.shm.waiting import wait_until
from tests.children import PATIENCE, SMALL, run
from tests.web.servers import is_running

X = [0.1] * SMALL.hidden_dim


def test_all_threads_get_the_same(name: str) -> None:
    sona.Engine.create(name, SMALL).close()
    barrier, found = threading.Barrier(16), []

    def get() -> None:
        barrier.wait()
        found.append(worker_engine(name))

    threads = [threading.Thread(target=get) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert set(map(id, found)) == {id(worker_engine(name))}


def test_an_engine_that_is_gone_is_an_error_until_it_is_back(name: str) -> None:
    with pytest.raises(sona.EngineNotFound):
        worker_engine(name)
    sona.Engine.create(name, SMALL).close()
    first = worker_engine(name)
    first.route(X)
    sona.Engine.destroy(name)
    with pytest.raises(sona.EngineNotFound):
        worker_engine(name)
    sona.Engine.create(name, SMALL).close()
    second = worker_engine(name)
    assert second is not first
    assert second.feedback(second.route(X).id, 0.5)
    assert second.stats().decisions == 1
    with pytest.raises(sona.EngineNotFound):
        first.route(X)


def test_a_closed_engine_is_attached_again(name: str) -> None:
    sona.Engine.create(name, SMALL).close()
    worker_engine(name).close()
    assert worker_engine(name).feedback(worker_engine(name).route(X).id, 0.5)


@pytest.mark.parametrize("cycle", [False, True])
def test_a_former_engine_is_let_go(name: str, cycle: bool) -> None:
    """Nothing but its last user holds it; that may be garbage, such as a traceback."""
    run(
        """
        import gc
        from pathlib import Path
        from sona_shm.integrations.worker import worker_engine
        config = sona.SonaConfig(hidden_dim=8)
        for _ in range(3):
            sona.Engine.create(name, config).close()
            record(worker_engine(name))
            if sys.argv[2] == "True":
                worker_engine(name).itself = worker_engine(name)
            gc.collect()
            gc.collect()  # what the first one has freed was itself in a cycle
            assert Path("/proc/self/maps").read_text().count(f"sona-{name}.w") == 1
            sona.Engine.destroy(name)
        """,
        name,
        str(cycle),
    )


def test_a_child_has_a_lane_of_its_own(name: str) -> None:
    run(
        """
        from sona_shm.integrations.worker import worker_engine
        engine = worker_engine(name)
        lane = engine.claim_lane()
        child = os.fork()
        if child == 0:
            same = worker_engine(name) is engine
            os._exit(0 if same and engine.claim_lane() != lane else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert engine.claim_lane() == lane
        """,
        _created(name),
    )


def test_a_fork_while_a_thread_attaches_blocks_nobody(name: str) -> None:
    run(
        """
        from sona_shm.integrations.worker import worker_engine
        def attach():
            while not done.is_set():
                worker_engine(name).close()
        done = threading.Event()
        thread = threading.Thread(target=attach)
        thread.start()
        children = []
        for _ in range(50):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                record(worker_engine(name))
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        done.set()
        thread.join()
        """,
        _created(name),
    )


def _created(name: str) -> str:
    sona.Engine.create(name, SMALL).close()
    return name


def test_whoever_comes_first_makes_the_engine(name: str, tmp_path: Path) -> None:
    """As masters that start at the same time do."""
    threads = [threading.Thread(target=ensure_engine, args=(name, SMALL)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sona.Engine.attach(name) as engine:
        assert engine.config == SMALL
        ensure_engine(name, sona.SonaConfig(hidden_dim=4))
        assert engine.is_current


# ---- learners of a master ----


def test_a_pool_keeps_as_many_learners_as_are_wanted(name: str, tmp_path: Path) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        pool = LearnerPool(name)
        try:
            pool.arrange(2, LearnerOptions(), None)
            first = pool.pids
            assert len(first) == 2
            pool.arrange(2, LearnerOptions(), None)
            assert pool.pids == first
            os.kill(first[0], 9)
            assert wait_until(lambda: not is_running(first[0]), PATIENCE)
            (started,) = pool.replace_dead()
            assert pool.pids == [first[1], started]
            pool.arrange(1, LearnerOptions(), None)
            assert pool.pids == [first[1]]
            pool.arrange(1, LearnerOptions(tmp_path / "j"), CheckpointPlan(tmp_path / "c"))
            assert first[1] not in pool.pids
            assert engine.feedback(engine.route(X).id, 0.5)
            assert engine.flush(PATIENCE)
        finally:
            pool.stop()
        assert pool.pids == []
        assert not engine.stats().learner_alive
    assert list((tmp_path / "j").iterdir()) != []
    assert list((tmp_path / "c").iterdir()) != []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"learners": -1}, "learners is -1, expected an integer from 0 to 16"),
        ({"learners": 1.5}, "learners is 1.5"),
        ({"learners": True}, "learners is True"),
        ({"learners": 0, "journal": "j"}, "journal and checkpoint belong to learners"),
        ({"learners": 0, "checkpoint": "c"}, "journal and checkpoint belong to learners"),
    ],
)
def test_hooks_that_cannot_be(arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(sona.ConfigError, match=expected):
        GunicornHooks("router", "engine.toml", **arguments)  # type: ignore[arg-type]  # wrong on purpose
