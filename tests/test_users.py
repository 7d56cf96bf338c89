"""Users and groups: an engine is its creator's alone, unless it is shared with a group.

Root forks children that become another user.  They run what is imported already, since the
interpreter's files need not be readable for that user.
"""

from __future__ import annotations

import grp
import json
import os
import signal
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import sona_shm as sona
from sona_shm.cli.main import main
from sona_shm.shm.locks import LifecycleLock, lifecycle_is_locked
from sona_shm.shm.names import names_of
from sona_shm.shm.segment import create_segment
from tests.checkpoints import learned
from tests.children import SMALL, run, trajectory
from tests.conftest import leftovers
from tests.torture.processes import Child

NOBODY, MEMBER = 65534, 65533

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="another user is needed: run the tests as root"
)


def as_user(
    function: Callable[..., Any], *arguments: Any, user: int = NOBODY, groups: Iterable[int] = ()
) -> Any:
    """What a function answers to another user; an error is its type's name and its message."""
    reader, writer = os.pipe()

    def ask() -> None:
        os.setgroups(list(groups))
        os.setgid(user)
        os.setuid(user)
        try:
            answer = function(*arguments)
        except Exception as error:
            answer = [type(error).__name__, str(error)]
        os.write(writer, json.dumps(answer).encode())

    child = Child(ask)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    assert child.join() == 0
    return json.loads(text)


@pytest.fixture
def group() -> grp.struct_group:
    """Some group of this host."""
    found = [entry for entry in grp.getgrall() if entry.gr_gid not in (0, NOBODY, MEMBER)]
    if not found:
        pytest.skip("this host has no group but root's: make one with groupadd")
    return found[0]


def shared_with(group: grp.struct_group) -> sona.SonaConfig:
    return sona.SonaConfig.from_mapping(SMALL.to_mapping() | {"group": group.gr_name})


def files_of(name: str) -> list[Path]:
    found = sorted(Path("/dev/shm").glob(f"*{name}*"))
    assert len(found) == 4
    return found


def attach(name: str) -> str:
    with sona.Engine.attach(name) as engine:
        return engine.name


# ---- an engine of one user ----


@pytest.mark.parametrize("umask", ["0", "0o77", "0o777"])
def test_modes_do_not_depend_on_the_umask(name: str, umask: str) -> None:
    config = "sona.SonaConfig(hidden_dim=8)"
    run(f"os.setuid({NOBODY}); os.umask({umask}); sona.Engine.create(name, {config}).close()", name)
    assert [oct(file.stat().st_mode & 0o7777) for file in files_of(name)] == ["0o600"] * 4


def test_the_life_cycle_s_lock_is_private_at_any_umask(name: str) -> None:
    former = os.umask(0)
    try:
        with LifecycleLock(names_of(name), 1.0):
            lock = Path(f"/dev/shm/sona-{name}.l")
            assert oct(lock.stat().st_mode & 0o7777) == "0o600"
    finally:
        os.umask(former)


def test_another_user_is_told_what_to_do(name: str) -> None:
    with sona.Engine.create(name, SMALL):
        kind, text = as_user(attach, name)
        assert kind == "EngineForbidden"
        for part in (f"/dev/shm/sona-{name}.c", "belongs to root", "the setting group"):
            assert part in text
        for call in (sona.Learner, lambda name: sona.Engine.create(name, SMALL, replace=True)):
            assert as_user(call, name)[0] == "EngineForbidden"


def test_another_user_can_neither_read_nor_write_nor_unlink(name: str) -> None:
    def attempt(file: str, flags: int) -> str:
        os.close(os.open(file, flags))
        return "opened"

    with sona.Engine.create(name, SMALL):
        for file in files_of(name):
            for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                assert as_user(attempt, str(file), flags)[0] == "PermissionError"
            assert as_user(os.unlink, str(file))[0] == "PermissionError"


def test_another_user_destroys_nothing_and_marks_nothing(name: str) -> None:
    with sona.Engine.create(name, SMALL, learner="inline") as engine:
        kind, text = as_user(sona.Engine.destroy, name)
        assert kind == "EngineForbidden"
        assert "belongs to root" in text
        assert not engine._memory.is_destroyed
        assert engine.record(trajectory())
        assert attach(name) == name


@pytest.mark.parametrize("command", ["stats", "destroy", "learn", "learner"])
def test_a_command_is_one_line_and_exit_code_1(
    command: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with sona.Engine.create(name, SMALL):
        assert as_user(main, [command, name]) == 1
    errors = capfd.readouterr().err
    assert errors.startswith("sona: /dev/shm/sona-")
    assert errors.count("\n") == 1


def test_doctor_lists_what_it_may_not_look_into(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with sona.Engine.create(name, SMALL):
        assert as_user(main, ["doctor", name]) == 0
    printed = capfd.readouterr().out
    for part in (name, "no access", "root", f"sudo -u root sona doctor {name}"):
        assert part in printed


# ---- the life cycle's lock of another user ----


def test_a_foreign_lock_counts_as_locked_and_blocks_for_a_bounded_time(name: str) -> None:
    Path(f"/dev/shm/sona-{name}.l").touch(0o600)

    def wait_for_it() -> str:
        with LifecycleLock(names_of(name), 0.05):
            return "locked"

    assert as_user(lambda: lifecycle_is_locked(names_of(name))) is True
    kind, text = as_user(wait_for_it)
    assert kind == "EngineNotReady"
    assert f"it is root's; was it killed, root may rm /dev/shm/sona-{name}.l" in text
    attempt = partial(sona.Engine.attach, name, timeout=0.05)
    assert as_user(attempt)[0] == "EngineNotFound"


def test_root_works_under_a_lock_that_another_user_has_left(name: str) -> None:
    """The kernel refuses root an open with O_CREAT where fs.protected_regular is set."""

    def leave() -> None:
        lock = LifecycleLock(names_of(name), 1.0)
        assert lock
        os.kill(os.getpid(), signal.SIGKILL)

    def leave_as_nobody() -> None:
        os.setuid(NOBODY)
        leave()

    Child(leave_as_nobody).join()
    assert Path(f"/dev/shm/sona-{name}.l").stat().st_uid == NOBODY
    sona.Engine.create(name, SMALL).close()
    sona.Engine.destroy(name)
    assert leftovers(name) == []


# ---- an engine of a group ----


def test_a_shared_engine_has_the_group_and_no_more(name: str, group: grp.struct_group) -> None:
    with sona.Engine.create(name, shared_with(group)):
        found = [file.stat() for file in files_of(name)]
    assert {(oct(each.st_mode & 0o7777), each.st_gid) for each in found} == {
        ("0o660", group.gr_gid)
    }


def test_a_member_attaches_routes_gives_feedback_and_learns(
    name: str, group: grp.struct_group
) -> None:
    def work() -> int:
        with sona.Engine.attach(name, learner="inline") as engine:
            for _ in range(20):
                assert engine.feedback(engine.route([0.3] * 8).id, 0.7)
            assert engine.record(trajectory())
            return engine.stats().counters.outcomes_learned

    with sona.Engine.create(name, shared_with(group)) as engine:
        assert as_user(work, user=MEMBER, groups=[group.gr_gid]) == 20
        assert engine.stats().counters.outcomes_learned == 20
        assert engine.feedback(engine.route([0.3] * 8).id, 0.7)
        with sona.Learner(name) as learner:
            assert learner.step() == 1


def test_who_is_not_in_the_group_is_told_which(name: str, group: grp.struct_group) -> None:
    with sona.Engine.create(name, shared_with(group)):
        kind, text = as_user(attach, name)
    assert kind == "EngineForbidden"
    assert f"the group {group.gr_name}" in text
    assert f"usermod -aG {group.gr_name}" in text


def test_a_member_cannot_destroy_nor_replace(name: str, group: grp.struct_group) -> None:
    with sona.Engine.create(name, shared_with(group)) as engine:
        for call in (
            lambda: sona.Engine.destroy(name),
            lambda: sona.Engine.create(name, SMALL, replace=True).close(),
            lambda: main(["destroy", name]),
        ):
            answer = as_user(call, user=MEMBER, groups=[group.gr_gid])
            assert answer == 1 or answer[0] == "EngineForbidden"
        assert not engine._memory.is_destroyed
        assert len(leftovers(name)) == 4
        assert engine.record(trajectory())
        with sona.Learner(name) as learner:
            assert learner.step() == 1


def test_a_member_finds_a_half_made_engine(name: str, group: grp.struct_group) -> None:
    """Its creator's lock is still there, and a member cannot tell whether somebody holds it."""

    def leave() -> None:
        lock = LifecycleLock(names_of(name), 1.0)
        segment = create_segment(names_of(name).control, 1 << 16, group.gr_gid)
        assert lock
        assert segment
        os.kill(os.getpid(), signal.SIGKILL)

    Child(leave).join()
    attempt = partial(sona.Engine.attach, name, timeout=0.05)
    kind, text = as_user(attempt, user=MEMBER, groups=[group.gr_gid])
    assert kind == "EngineNotReady"
    assert "was not ready after 0.05 s" in text
    with pytest.raises(sona.EngineNotReady, match="half-made"):
        sona.Engine.attach(name)


def test_a_group_that_cannot_be_leaves_everything_alone(
    name: str, group: grp.struct_group, tmp_path: Path
) -> None:
    def create(replace: bool = False) -> None:
        sona.Engine.create(name, shared_with(group), replace=replace).close()

    kind, text = as_user(create)
    assert kind == "ConfigError"
    assert f"usermod -aG {group.gr_name}" in text
    unknown = sona.SonaConfig(hidden_dim=8, group="no-such-group")
    with pytest.raises(sona.ConfigError, match="groupadd no-such-group"):
        sona.Engine.create(name, unknown)
    assert leftovers(name) == []
    with sona.Engine.create(name, SMALL, learner="inline") as engine:
        engine.record(trajectory())
        file = engine.save(tmp_path)
    for changes in ({"group": "no-such-group"}, {"group": 7}):
        with pytest.raises(sona.ConfigError, match="group is"):
            sona.Engine.restore(name, file, changes=changes, replace=True)
    with sona.Engine.attach(name) as engine:
        assert engine.stats().recorded == 1


def test_a_restore_shares_and_unshares(name: str, group: grp.struct_group, tmp_path: Path) -> None:
    """The group is no learned state: everything stays."""
    with sona.Engine.create(name, SMALL, learner="inline") as engine:
        for _ in range(50):
            assert engine.feedback(engine.route([0.3] * 8).id, 0.7)
        before = (learned(engine.stats().routes), engine.predict([0.3] * 8).reward.tolist())
        file = engine.save(tmp_path)
    for setting, mode in ((group.gr_name, 0o660), ("", 0o600)):
        arguments = ["restore", name, str(file), "--set", f"group={setting}", "--replace"]
        assert main(arguments) == 0
        assert {each.stat().st_mode & 0o777 for each in files_of(name)} == {mode}
        with sona.Engine.attach(name) as engine:
            assert engine.config.group == setting
            assert (
                learned(engine.stats().routes),
                engine.predict([0.3] * 8).reward.tolist(),
            ) == before
            file = engine.save(tmp_path)
