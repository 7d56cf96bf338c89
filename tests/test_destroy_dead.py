"""sona destroy --dead: what no living process uses goes, everything else stays."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.cli.destroy import remove_dead
from sona_shm.cli.main import main
from sona_shm.monitor.host import HostEngine, look_at_host
from sona_shm.shm.locks import LifecycleLock
from sona_shm.shm.names import names_of
from sona_shm.shm.removal import control_inode, remove_as_seen
from sona_shm.shm.segment import create_segment
from tests.children import PATIENCE, SMALL, end, finish, hear, start, trajectory
from tests.conftest import leftovers, remove_everything
from tests.private_shm import run_in_private_shm
from tests.torture.processes import Child, Table, busy_delay


@pytest.fixture
def other() -> Iterator[str]:
    """A second name."""
    engine = f"t-{secrets.token_hex(6)}"
    yield engine
    remove_everything(engine)


def dead(*names: str) -> list[HostEngine]:
    return [engine for engine in look_at_host(names).engines if engine.is_dead]


def clean(*names: str) -> list[str]:
    """As the command does, for these names alone; the names that were dead."""
    found = dead(*names)
    assert all([remove_dead(engine) for engine in found])  # noqa: C419  # all of them
    return [engine.name for engine in found]


def clean_quietly(*names: str) -> None:
    clean(*names)


# ---- what goes ----


def test_an_engine_whose_processes_were_killed_goes(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    child = start(
        """
        config = sona.SonaConfig(hidden_dim=8)
        engine = sona.Engine.create(name, config, learner="inline")
        record(engine)
        say("on")
        hear()
        """,
        name,
    )
    try:
        hear(child)
        assert clean(name) == []
        child.kill()
        child.wait(PATIENCE)
        assert clean(name) == [name]
    finally:
        end(child)
    assert leftovers(name) == []
    assert capsys.readouterr().out == f"removed {name} (idle)\n"


def test_what_killed_creators_leave_goes(name: str, rng: np.random.Generator) -> None:
    states: set[str] = set()
    for turn in range(600):
        creator = Child(lambda: sona.Engine.create(name, SMALL).close())
        busy_delay(float(rng.uniform(0.0, 0.004)))
        creator.kill()
        states |= {engine.state for engine in dead(name)}
        clean(name)
        assert list(Path("/dev/shm").glob(f"*{name}*")) == []
        if turn >= 40 and "half-made" in states:
            break
    assert "half-made" in states


@pytest.mark.parametrize("part", ["ring", "weights", "lifecycle"])
def test_parts_without_an_engine_go(name: str, part: str) -> None:
    Path("/dev/shm", getattr(names_of(name), part)[1:]).touch(0o600)
    assert clean(name) == [name]
    assert list(Path("/dev/shm").glob(f"*{name}*")) == []


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_garbage_with_an_engine_s_name_goes(name: str, size: int, rng: np.random.Generator) -> None:
    Path(f"/dev/shm/sona-{name}.c").write_bytes(rng.bytes(size))
    assert clean(name) == [name]
    assert leftovers(name) == []


# ---- what stays ----


@pytest.mark.parametrize("role", ["record(engine)", "learner = sona.Learner(name)"])
def test_an_engine_with_one_living_process_stays(name: str, other: str, role: str) -> None:
    sona.Engine.create(name, SMALL).close()
    sona.Engine.create(other, SMALL).close()
    child = start(f"engine = sona.Engine.attach(name); {role}; say('on'); hear()", name)
    try:
        hear(child)
        assert clean(name, other) == [other]
        with sona.Engine.attach(name) as engine:
            assert engine.record(trajectory())
        assert leftovers(other) == []
        finish(child)
    finally:
        end(child)


def test_what_somebody_makes_at_this_moment_stays(name: str) -> None:
    with LifecycleLock(names_of(name), 1.0):
        create_segment(names_of(name).control, 1 << 16).close()
        assert clean(name) == []
        assert control_inode(names_of(name)) is not None


def test_an_engine_that_comes_into_use_after_the_look_stays(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sona.Engine.create(name, SMALL).close()
    (seen,) = dead(name)
    with sona.Engine.attach(name) as engine:
        assert engine.record(trajectory())
        assert remove_dead(seen)
        assert engine.record(trajectory())
        assert not engine._memory.is_destroyed
        sona.Engine.attach(name).close()
    assert f"kept {name}: the engine '{name}' is in use by worker" in capsys.readouterr().out


@pytest.mark.parametrize("before", ["idle", "half-made", "leftover"])
def test_an_engine_that_was_made_after_the_look_stays(name: str, before: str) -> None:
    """It has the name of what was seen, and is another one that nobody uses yet."""
    if before == "idle":
        sona.Engine.create(name, SMALL).close()
    elif before == "half-made":
        create_segment(names_of(name).control, 1 << 16).close()
    else:
        create_segment(names_of(name).ring, 1 << 16).close()
    (seen,) = dead(name)
    assert seen.state == before
    sona.Engine.create(name, SMALL, replace=True).close()
    assert not remove_as_seen(name, seen.inode)
    sona.Engine.attach(name).close()


def test_an_engine_of_another_layout_that_is_in_use_stays(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        assert engine.record(trajectory())
        with Path(f"/dev/shm/sona-{name}.c").open("r+b") as file:
            file.seek(8)
            file.write(bytes([99]))
        assert dead(name) == []
        for attempt in (
            lambda: remove_as_seen(name, control_inode(names_of(name))),
            lambda: sona.Engine.create(name, SMALL, replace=True),
        ):
            with pytest.raises(sona.EngineInUse, match="in use by a living process"):
                attempt()
    assert clean(name) == [name]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed: run the tests as root")
def test_an_engine_of_another_user_stays(name: str) -> None:
    def create() -> None:
        os.setuid(65534)
        sona.Engine.create(name, SMALL).close()

    assert Child(create).join() == 0
    assert clean(name) == []
    assert len(leftovers(name)) == 4


# ---- several at once ----


def cleaner(names: list[str], table: Table, row: int) -> None:
    """Look and remove, again and again, and once more after all users have ended."""
    cells = table.writer(row)
    ended = False
    while not ended:
        ended = int(table.column("ended").sum()) == len(names)
        for engine in dead(*names):
            cells["removed"][0] += remove_dead(engine)


def user(name: str, table: Table, row: int, engines: int) -> None:
    """Create and record; from the first record on, the engine is in use and must stay."""
    cells = table.writer(row)
    while cells["used"][0] < engines:
        try:
            engine = sona.Engine.create(name, SMALL)
        except sona.EngineExists:  # the former one, not cleaned yet
            continue
        try:
            engine.record(trajectory())
        except sona.EngineNotFound:  # cleaned before it was in use
            engine.close()
            continue
        for _ in range(20):
            assert engine.record(trajectory())
            assert not engine._memory.is_destroyed
        sona.Engine.attach(name).close()
        cells["used"][0] += 1
        engine.close()
    cells["ended"][0] = 1


def test_cleaners_do_not_collide_with_each_other_nor_with_users(
    name: str, other: str, capfd: pytest.CaptureFixture[str]
) -> None:
    table = Table(4, ("removed", "used", "ended"))
    cleaners = [Child(cleaner, [name, other], table, row) for row in range(2)]
    users = [Child(user, each, table, 2 + i, 20) for i, each in enumerate((name, other))]
    assert [child.join() for child in (*users, *cleaners)] == [0] * 4
    # Some were removed before they were in use, all others after.
    assert int(table.column("removed").sum()) >= int(table.column("used").sum()) == 40
    assert list(Path("/dev/shm").glob(f"*{name}*")) == []
    assert capfd.readouterr().err == ""


def test_a_cleaner_that_is_killed_leaves_work_for_the_next(
    name: str, rng: np.random.Generator
) -> None:
    for _ in range(40):
        sona.Engine.create(name, SMALL).close()
        child = Child(clean_quietly, name)
        busy_delay(float(rng.uniform(0.0, 0.003)))
        child.kill()
        clean(name)
        assert list(Path("/dev/shm").glob(f"*{name}*")) == []


# ---- the command ----

COMMAND = """
import io
from sona_shm.cli.main import main
config = sona.SonaConfig(hidden_dim=8, routes=[sona.Route("a")], max_workers=2)

def there():
    return sorted({part.split("-")[1].split(".")[0] for part in os.listdir("/dev/shm")})

with sona.Engine.create("idle", config, learner="inline") as engine:
    for _ in range(7):
        assert engine.feedback(engine.route([0.3] * 8).id, 0.7)
live = sona.Engine.create("live", config, learner="inline")
record(live)
open("/dev/shm/sona-half.c", "w").close()
open("/dev/shm/sona-left.r", "w").close()
"""


def test_engines_go_only_after_a_question() -> None:
    output = run_in_private_shm(
        COMMAND
        + """
class Terminal(io.StringIO):
    def isatty(self): return True

from contextlib import redirect_stderr
sys.stdin = io.StringIO("y\\n")
errors = io.StringIO()
with redirect_stderr(errors):
    assert main(["destroy", "--dead"]) == 1
assert "give --yes" in errors.getvalue()
assert there() == ["half", "idle", "left", "live"]
sys.stdin = Terminal("no\\n")
assert main(["destroy", "--dead"]) == 1
assert there() == ["half", "idle", "left", "live"]
sys.stdin = Terminal("y\\n")
assert main(["destroy", "--dead"]) == 0
assert there() == ["live"]
record(live)
live.close()
assert main(["destroy", "--dead", "--yes"]) == 0
assert there() == []
assert main(["destroy", "--dead"]) == 0
""",
        size="1g",
    )
    assert "remove 1 engine and all that was learned there? [y/N]" in output
    assert "│       7 │" in output  # outcomes learned
    assert "removed half (half-made)" in output
    assert output.splitlines()[-1] == "nothing to remove"


def test_what_holds_nothing_goes_without_a_question() -> None:
    output = run_in_private_shm(
        COMMAND
        + """
sona.Engine.destroy("idle")
sys.stdin = io.StringIO("")
assert main(["destroy", "--dead"]) == 0
assert there() == ["live"]
""",
        size="1g",
    )
    assert output == "removed half (half-made)\nremoved left (leftover)\n"


@pytest.mark.parametrize(
    "arguments", [[], ["NAME", "--dead"], ["--dead", "--force"], ["NAME", "--yes"]]
)
def test_a_wrong_command_line_exits_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["destroy", *arguments])
    assert "usage: sona destroy" in capsys.readouterr().err
