"""Files: what is refused and why, which one wins, and what a writer leaves behind."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import sona_shm as sona
from sona_shm.checkpoint import rotation
from sona_shm.checkpoint.atomic import write_file
from sona_shm.checkpoint.format import read_checkpoint
from sona_shm.checkpoint.restore import restore_memory
from sona_shm.checkpoint.saver import CheckpointPlan, Saver
from sona_shm.checkpoint.sections import Tensors
from sona_shm.checkpoint.state import set_field
from sona_shm.shm.layout import LAYOUT_VERSION, OFFSETS
from tests.checkpoints import embedding, learn_something, small_config, state_of
from tests.children import PATIENCE, end, hear, start
from tests.conftest import leftovers
from tests.torture.corruptions import corrupt_files

Metadata = dict[str, str]


@pytest.fixture
def saved(name: str, rng: np.random.Generator, tmp_path: Path) -> Path:
    """A file of an engine that has learned a bit of everything and is gone."""
    with sona.Engine.create(name, small_config(), "inline") as engine:
        learn_something(engine, rng)
        path = engine.save(tmp_path / "saved.safetensors")
    sona.Engine.destroy(name)
    return path


def take_apart(path: Path) -> tuple[Tensors, Metadata]:
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    metadata: Metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    return dict(safetensors.numpy.load(data)), metadata


def put_together(path: Path, tensors: Tensors, metadata: Metadata) -> None:
    """With a checksum that fits, as a program with an error in it would write."""
    metadata = metadata | {"sha256": "0" * 64}
    data = safetensors.numpy.save(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata
    )
    digest = hashlib.sha256(data).hexdigest().encode()
    path.write_bytes(data.replace(b"0" * 64, digest, 1))


# ---- refusals ----


def test_putting_together_is_faithful(saved: Path) -> None:
    state = read_checkpoint(saved).state
    put_together(saved, *take_apart(saved))
    assert read_checkpoint(saved).state.equals(state)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "expected at most"),
        (b"hello", "expected at most"),
        (b"#!/bin/sh\necho no checkpoint at all\n", "claims"),
        ((2**63).to_bytes(8, "little") + b"{}", "claims 9,223,372,036,854,775,808 bytes"),
        ((1000).to_bytes(8, "little") + b"{}", "ends in its header"),
        ((2).to_bytes(8, "little") + b"{}", "no metadata"),
        ((2).to_bytes(8, "little") + b"[]", "no metadata"),
        ((100000).to_bytes(8, "little") + b"[" * 100000, "no JSON"),
        (safetensors.numpy.save({"a": np.ones(3)}), "no metadata"),
        (safetensors.numpy.save({"a": np.ones(3)}, {"format": "pt"}), "format is 'pt'"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(sona.CheckpointError, match=reason) as refusal:
        read_checkpoint(path)
    assert str(path) in str(refusal.value)


def test_every_cut_is_refused(saved: Path, rng: np.random.Generator) -> None:
    data = saved.read_bytes()
    for length in [0, 1, 7, 8, 9, len(data) - 1, *rng.integers(len(data), size=50).tolist()]:
        saved.write_bytes(data[:length])
        with pytest.raises(sona.CheckpointError):
            read_checkpoint(saved)


def test_random_damage_is_refused_or_is_none(name: str, rng: np.random.Generator) -> None:
    report = corrupt_files(name, int(rng.integers(2**32)), 1000)
    assert report.problems == []
    assert report.figures["refused"] > 900


def change_metadata(key: str, value: str) -> Callable[[Tensors, Metadata], None]:
    return lambda _, metadata: metadata.update({key: value})


def change_config(**changes: Any) -> Callable[[Tensors, Metadata], None]:
    def change(tensors: Tensors, metadata: Metadata) -> None:
        metadata["config"] = json.dumps(json.loads(metadata["config"]) | changes)

    return change


def change_counts(**changes: Any) -> Callable[[Tensors, Metadata], None]:
    def change(tensors: Tensors, metadata: Metadata) -> None:
        metadata["counts"] = json.dumps(json.loads(metadata["counts"]) | changes)

    return change


def change_header(field: str, value: int) -> Callable[[Tensors, Metadata], None]:
    return lambda tensors, _: set_field(tensors["header"], field, value)


def put_nan(tensor: str) -> Callable[[Tensors, Metadata], None]:
    def change(tensors: Tensors, metadata: Metadata) -> None:
        tensors[tensor].reshape(-1)[-1] = np.nan

    return change


def change_route(start: int, value: bytes, index: int = 1) -> Callable[[Tensors, Metadata], None]:
    def change(tensors: Tensors, metadata: Metadata) -> None:
        record = tensors["route_state"][index]
        record[start : start + len(value)] = np.frombuffer(value, np.uint8)

    return change


def change_tasks(field: str, value: int) -> Callable[[Tensors, Metadata], None]:
    def change(tensors: Tensors, metadata: Metadata) -> None:
        words = tensors["task_detector"].view("<u8")
        words[OFFSETS[f"task_detector.{field}"] // 8] = value

    return change


def reshape(tensor: str, *shape: int) -> Callable[[Tensors, Metadata], None]:
    def change(tensors: Tensors, metadata: Metadata) -> None:
        tensors[tensor] = np.zeros(shape, tensors[tensor].dtype)

    return change


DOUBLE_NAN = np.float64("nan").tobytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_metadata("layout", str(LAYOUT_VERSION + 1)), "memory layout"),
        (change_metadata("format", "sona_shm checkpoint 2"), "format is"),
        (change_metadata("time_ns", "-1"), "the time is -1"),
        (change_metadata("config", "{"), "header cannot be read"),
        (change_config(hidden_dim=0), "hidden_dim is 0"),
        (change_config(hidden_dim=13), "micro_a is float32 of shape"),
        (change_config(pattern_clusters=12), "of shape"),
        (change_config(experts=["linear"]), "experts are 0x7"),
        (change_config(new_setting=1), "unknown settings new_setting"),
        (change_config(max_routes=2), "route_state has 3 rows, expected 0 to 2"),
        (change_counts(decisions=-1), "-1 decisions"),
        (change_counts(decisions=1.5), "expected integers"),
        (change_counts(dropped=2**63), "dropped cannot be"),
        (change_counts(next_trajectory_id=0), "expected 1 to"),
        (change_counts(unknown=0), "header cannot be read"),
        (lambda tensors, _: tensors.pop("micro_b"), "micro_b"),
        (lambda tensors, _: tensors.update(extra=np.ones(1)), "extra"),
        (reshape("micro_b", 3, 3), "micro_b is float32 of shape"),
        (reshape("route_bank", 3, 10), "route_bank is float32 of shape"),
        (reshape("header", 8), "header is uint8 of shape"),
        (reshape("route_state", 17, 256), "route_state has 17 rows"),
        (change_header("snapshot_header.version", 2**62), "version is"),
        (change_header("snapshot_header.slow_version", 99), "slow block has version"),
        (change_header("snapshot_header.routes", 2), "2 routes"),
        (change_header("snapshot_header.refits", 0), "with 0 refits"),
        (change_header("snapshot_header.refits", 2**50), "refits cannot be"),
        (change_header("snapshot_header.reservoir_position", 1), "rows of the reservoir"),
        (change_header("snapshot_header.counters", 2**63), "a counter cannot be"),
        (change_header("snapshot_header.mixture", 0x7FF0 << 48), "NaN or infinity"),
        (change_tasks("tasks", 5), "5 tasks, expected at most 4"),
        (change_tasks("current", 4), "task 4 of"),
        (change_tasks("stay", 2**61), "a count of tasks cannot be"),
        (change_tasks("spread", 0x7FF0 << 48), "tasks hold NaN or infinity"),
        (put_nan("task_heads"), "task_heads holds NaN"),
        (put_nan("micro_a"), "micro_a holds NaN"),
        (put_nan("slow_projection"), "slow_projection holds NaN"),
        (put_nan("reservoir_embedding"), "reservoir_embedding holds NaN"),
        (change_route(0, b"small\0"), "two routes have one name"),
        (change_route(0, b"\xff\xfe"), "expected UTF-8"),
        (change_route(0, b"\0"), "expected UTF-8"),
        (change_route(0, b"x" * 64), "expected UTF-8"),
        (change_route(OFFSETS["route_state.flags"], b"\xff"), "flags 0xff"),
        (change_route(OFFSETS["route_state.cost"], DOUBLE_NAN), "cost nan"),
        (change_route(OFFSETS["route_state.price"], struct.pack("<d", -1.0)), "price -1"),
        (change_route(OFFSETS["route_state.quality"], DOUBLE_NAN), "route 1 holds NaN"),
        (change_route(OFFSETS["route_state.outcomes"], b"\xff" * 8), "outcomes"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    name: str, saved: Path, change: Callable[[Tensors, Metadata], None], reason: str
) -> None:
    tensors, metadata = take_apart(saved)
    change(tensors, metadata)
    put_together(saved, tensors, metadata)
    with pytest.raises(sona.CheckpointError, match=reason) as refusal:
        sona.Engine.restore(name, saved)
    assert str(saved) in str(refusal.value)
    assert leftovers(name) == []


def test_patterns_beyond_the_room_are_refused(name: str, saved: Path) -> None:
    tensors, metadata = take_apart(saved)
    set_field(tensors["slow_header"], "slow_header.patterns", 11)
    put_together(saved, tensors, metadata)
    with pytest.raises(sona.CheckpointError, match="11 patterns, expected at most 10"):
        sona.Engine.restore(name, saved)


def test_other_routes_are_refused(name: str, saved: Path) -> None:
    with pytest.raises(sona.ConfigError, match="add_route"):
        sona.Engine.restore(name, saved, changes={"routes": [{"name": "other"}]})
    assert leftovers(name) == []


def test_whatever_passes_the_checks_can_be_learned_from(
    name: str, saved: Path, rng: np.random.Generator
) -> None:
    """Random bytes in the structures, with a checksum that fits: no crash, and a learner works."""
    tensors, metadata = take_apart(saved)
    restored = 0
    for _ in range(300):
        changed = {key: tensor.copy() for key, tensor in tensors.items()}
        target = changed[str(rng.choice(["header", "slow_header", "route_state", "slow_sizes"]))]
        flat = target.reshape(-1).view("u1")
        flat[int(rng.integers(flat.size))] = rng.integers(256)
        put_together(saved, changed, metadata)
        try:
            state = read_checkpoint(saved).state
        except sona.CheckpointError:
            continue
        restored += 1
        restore_memory(name, state).close()
        with sona.Engine.attach(name, "inline") as engine:
            assert engine.observe(embedding(rng), 0, 0.5)
        sona.Engine.destroy(name)
    assert restored > 20


# ---- which one wins ----


def test_the_newest_valid_file_wins(
    name: str, rng: np.random.Generator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sona.Engine.create(name, small_config(), "inline") as engine:
        versions = []
        for _ in range(4):
            learn_something_little(engine, rng)
            engine.save(tmp_path)
            versions.append(state_of(engine).version)
    paths = rotation.list_checkpoints(tmp_path)
    assert [read_checkpoint(path).state.version for path in paths] == versions[::-1]
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    data = bytearray(paths[1].read_bytes())
    data[-1] ^= 1
    paths[1].write_bytes(data)
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    with caplog.at_level(logging.WARNING):
        with sona.Engine.restore(name, tmp_path, replace=True) as engine:
            assert state_of(engine).version == versions[1]
        assert [str(path) in caplog.text for path in paths] == [True, True, False, False]
        for path in paths[2:]:
            path.write_bytes(b"")
        with pytest.raises(sona.CheckpointError, match="none of the 4 checkpoints"):
            sona.Engine.restore(name, tmp_path, replace=True)


def learn_something_little(engine: sona.Engine, rng: np.random.Generator) -> None:
    assert engine.observe(embedding(rng), "small", float(rng.random()))


def test_so_many_are_kept_and_none_is_made_without_a_change(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    directory = tmp_path / "made" / "here"
    foreign = rotation.name_of(1, 1).replace(f"layout{LAYOUT_VERSION}", "layout1")
    with sona.Engine.create(name, small_config(), "inline") as engine:
        saver = Saver(engine._memory, CheckpointPlan(directory, keep=3))
        (directory / foreign).write_bytes(b"of another version of the package")
        saved = [saver.save()]
        assert saver.save() is None
        for _ in range(5):
            learn_something_little(engine, rng)
            saved.append(saver.save())
            assert engine.flush(10.0)  # publishes, but nothing new
            assert saver.save() is None
        assert rotation.list_checkpoints(directory) == [
            *reversed(saved[-3:]),
            directory / foreign,
        ]
        # but where that file was moved to the backups, nothing here would be restored
        assert saved[-1] is not None
        saved[-1].unlink()
        again = saver.save()
        assert again is not None
        assert again == rotation.list_checkpoints(directory)[0]
        # another process, or a later one, does not repeat the last file either
        assert Saver(engine._memory, CheckpointPlan(directory, keep=3)).save() is None


def test_a_clock_that_was_set_back_does_not_make_new_files_old_ones(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    with sona.Engine.create(name, small_config(), "inline") as engine:
        first = engine.save(tmp_path)
        first.rename(tmp_path / rotation.name_of(10**19, 0))  # in the year 2286
        saver = Saver(engine._memory, CheckpointPlan(tmp_path, keep=1))
        learn_something_little(engine, rng)
        path = saver.save()
        assert rotation.list_checkpoints(tmp_path) == [path]
        assert path != engine.save(tmp_path) == rotation.list_checkpoints(tmp_path)[0]


# ---- writers ----


def test_a_killed_writer_leaves_what_the_next_one_removes(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    """SIGSTOPped within its write, a writer is alive, and its file stays; killed, it goes."""
    writer = start(
        """
        from pathlib import Path
        from sona_shm.checkpoint import atomic
        atomic.os.fsync = lambda descriptor: (say("written"), hear())
        atomic.write_file(Path(name) / "a", b"x" * 100)
        """,
        str(tmp_path),
    )
    try:
        assert hear(writer) == "written"
        write_file(tmp_path / "b", b"y")
        assert len(list(tmp_path.glob(".unfinished-*"))) == 1
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait(PATIENCE)
        assert len(list(tmp_path.glob(".unfinished-*"))) == 1
        write_file(tmp_path / "b", b"z")
        assert [path.name for path in tmp_path.iterdir()] == ["b"]
        assert (tmp_path / "b").read_bytes() == b"z"
    finally:
        end(writer)


def test_a_disk_without_room_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    writer = start(
        """
        import resource
        from pathlib import Path
        from sona_shm.checkpoint.atomic import write_file
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_file(Path(name) / "a", b"x" * 2000)
        except sona.CheckpointError as error:
            say(str(error))
        """,
        str(tmp_path),
    )
    try:
        assert "cannot write the checkpoint" in hear(writer)
        assert list(tmp_path.iterdir()) == []
    finally:
        end(writer)


def test_a_path_that_cannot_be_written_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with sona.Engine.create(name, small_config()) as engine:
        for path in (tmp_path / "absent" / "a", tmp_path / "file" / "a"):
            with pytest.raises(sona.CheckpointError, match="cannot write the checkpoint"):
                engine.save(path)
        with pytest.raises(sona.CheckpointError, match="cannot make the directory"):
            Saver(engine._memory, CheckpointPlan(tmp_path / "file" / "a"))
        # Too long for a name: looking whether it is a directory must not be an error of its own.
        with pytest.raises(sona.CheckpointError, match="too long"):
            engine.save(tmp_path / ("n" * 300))


def test_what_cannot_be_removed_keeps_nobody_from_writing(tmp_path: Path) -> None:
    """Such as the unfinished file of another user, or what is no file at all."""
    (tmp_path / ".unfinished-directory").mkdir()
    (tmp_path / ".unfinished-loop").symlink_to(".unfinished-loop")
    os.mkfifo(tmp_path / ".unfinished-pipe")  # which nobody writes to
    write_file(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert list(tmp_path.glob(".unfinished-[0-9a-f]*[0-9a-f]")) == []


def test_where_nothing_can_be_made_durable_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory that may be written and not be read, say; root may do both everywhere."""
    (tmp_path / "a").write_bytes(b"old")
    opened = os.open

    def refusing(path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECTORY == os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(sona.CheckpointError, match="Permission denied"):
        write_file(tmp_path / "a", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / rotation.name_of(1, 1))
    for path in (tmp_path / rotation.name_of(1, 1), Path(os.devnull)):
        with pytest.raises(sona.CheckpointError, match="no regular file"):
            read_checkpoint(path)
    assert rotation.newest_valid(tmp_path) is None


def test_a_signal_ends_saving_wherever_it_arrives(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    """Its handler sets the event, whose lock the interrupted thread must not hold."""
    with sona.Engine.create(name, small_config(), "inline") as engine:
        learn_something_little(engine, rng)
        saver = start(
            """
            from pathlib import Path
            from sona_shm.checkpoint.saver import CheckpointPlan, save_repeatedly
            signal.signal(signal.SIGTERM, lambda *_: stop.set())
            class Interrupted(threading.Event):
                def wait(self, timeout=None):
                    with self._cond:
                        os.kill(os.getpid(), signal.SIGTERM)
                    return super().wait(timeout)
            stop = Interrupted()
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
            save_repeatedly(name, CheckpointPlan(Path(sys.argv[2]), every=1000.0), stop)
            say("ended")
            """,
            name,
            str(tmp_path),
        )
        try:
            assert hear(saver) == "ended"
        finally:
            end(saver)
