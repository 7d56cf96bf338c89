"""The live view as a person sees it: in a terminal, beside real workers and learners."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import sona_shm as sona
from sona_shm.shm.layout import LAYOUT_VERSION
from sona_shm.shm.waiting import wait_until
from sona_shm.watch import Watch
from tests.children import ENVIRONMENT, PATIENCE
from tests.conftest import remove_everything
from tests.processes import line_of, worker
from tests.terminal import Terminal, terminal
from tests.test_cli import sona_command, start_learner

ROUTES = (
    sona.Route("claude-haiku-4-5-20251001", 0.1),
    sona.Route("claude-haiku-4-5-20260701", 1.0),
    sona.Route("[red]odd", 0.5),
)
CONFIG = sona.SonaConfig(hidden_dim=8, routes=ROUTES, cost_weight=0.2, max_workers=4)
SERVE = """
import time
rng = np.random.default_rng(0)
print("ready", flush=True)
while True:
    decision = engine.route(rng.standard_normal(8))
    engine.feedback(decision.id, 0.5 + 0.2 * decision.index, latency_ms=120.0, tokens=50)
    engine.feedback(decision.id, 0.5)
    time.sleep(0.002)  # the pace of requests; nobody waits for it
"""
SIZES = [(80, 24), (200, 60)]
KEYS = ("q Quit", "p Pause", "s Sort lanes", "r Reverse", "Scroll", "? Help")
INTERVAL = ("--interval", "0.05")


class Busy(NamedTuple):
    name: str
    learner: int
    workers: tuple[int, int]


def figure(text: str, pattern: str) -> int:
    """The number in a place of the screen."""
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in\n{text}"
    return int(found[1].replace(",", ""))


def row_of(pid: int) -> str:
    """A lane's row: index, process, label, four figures."""
    return rf"(?m)^ +\d+ +{pid}  \S.*  ([\d,]+) +\d+ +[\d,]+ +\d"


@contextmanager
def learner(name: str) -> Iterator[subprocess.Popen[str]]:
    with start_learner(name) as process:
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@contextmanager
def working(name: str) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """A worker under load, and a learner at work."""
    with ExitStack() as stack:
        engine = stack.enter_context(sona.Engine.create(name, CONFIG))
        learning = stack.enter_context(learner(name))
        serving = stack.enter_context(worker(SERVE, name))
        assert line_of(serving) == "ready"
        assert wait_until(lambda: engine.stats().counters.outcomes_learned > 0, PATIENCE)
        yield serving, learning


@pytest.fixture(scope="module")
def busy() -> Iterator[Busy]:
    """An engine at work, for tests that change nothing of it."""
    name = f"t-{secrets.token_hex(6)}"
    with (
        working(name) as (serving, learning),
        worker(SERVE, name) as second,
        sona.Engine.attach(name) as engine,
    ):
        pids = {serving.pid, second.pid}
        assert wait_until(
            lambda: pids == {lane.pid for lane in engine.stats().lanes if lane.recorded}, PATIENCE
        )
        yield Busy(name, learning.pid, (serving.pid, second.pid))
    remove_everything(name)


@contextmanager
def top(name: str, size: tuple[int, int] = SIZES[0]) -> Iterator[Terminal]:
    with terminal(size, "top", name, *INTERVAL) as screen:
        screen.wait_for("q Quit")
        yield screen


# ---- what is on the screen ----


@pytest.mark.parametrize("size", SIZES)
def test_the_screen_shows_engine_learner_lanes_and_routes(
    busy: Busy, size: tuple[int, int]
) -> None:
    with top(busy.name, size) as screen:
        text = screen.wait(
            lambda text: re.search(r"[1-9]\d*/s decided.*/s learned, reward 0\.\d{4}", text),
            "traffic",
        )
        assert f"{busy.name}, 2 workers, " in text
        assert f"process {busy.learner}, at work for " in text
        assert "no standby" in text
        assert re.search(r"weights  version [\d,]+, published [\d.]+ s ago; task 1 of 1", text)
        assert all(figure(text, row_of(pid)) > 0 for pid in busy.workers)
        shares = [
            float(share)
            for route in ROUTES
            for share in re.findall(rf" {re.escape(route.name)} +([\d.]+)%", text)
        ]
        assert len(shares) == len(ROUTES)
        assert sum(shares) == pytest.approx(100.0, abs=0.2)
        for word in ("reward", "odds", "outcomes", "cost", "recorded", "dropped", "backlog"):
            assert word in text
        assert re.search(r"feedback_duplicate +[\d,]+ +[\d,.]+/s  second feedback for one", text)
        assert "retired" in text
        last = size[1] - 1
        screen.wait(lambda text: all(key in text.split("\n")[last] for key in KEYS), "the footer")
        assert {cell.fg for cell in screen.cells("at work")} == {"default"}
        assert not screen.overflows
        if size == (200, 60):
            assert re.search(r"(?m)^ route .* tokens +loss ", text)
            assert all(word in text for word in ("█", "adapters' shift", "heads_refitted"))
        else:
            screen.press("\x1b[F")
            assert "learner  process" in screen.wait_for("heads_refitted")
            screen.press("\x1b[H")
            screen.wait_for("retired")


def test_a_screen_that_is_too_small_does_no_harm(busy: Busy) -> None:
    with top(busy.name, (30, 8)) as screen:
        screen.wait(lambda text: "learner" in text and not screen.overflows, "what fits")
        for size in ((4, 2), (1, 1), (80, 24)):
            screen.resize(*size)
            screen.press("?s?r")
            screen.wait(str.strip, "another picture")
        screen.wait_for("retired", *KEYS)
        screen.press("q")
        assert screen.end() == 0


# ---- who dies ----


def test_a_dead_learner_is_said_in_red_with_what_to_do(name: str) -> None:
    with working(name) as (_, learning), top(name) as screen:
        screen.wait_for(f"process {learning.pid}, at work")
        learning.kill()
        screen.wait_for(
            f"NONE ALIVE, the last was process {learning.pid}",
            f"nothing is learned; start one: sona learner {name}",
        )
        assert {cell.fg for cell in screen.cells("NONE ALIVE")} == {"red"}
        with learner(name) as successor:
            screen.wait_for(f"process {successor.pid}, at work", "no standby")
            with learner(name):
                screen.wait_for(f"process {successor.pid}, at work", "standby ready")


def test_what_a_dead_worker_did_is_in_the_retired_row(name: str) -> None:
    with working(name) as (serving, _), top(name) as screen:
        text = screen.wait(lambda text: re.search(row_of(serving.pid), text), "the lane")
        recorded = figure(text, row_of(serving.pid))
        serving.kill()
        text = screen.wait_for(f"{name}, 0 workers")
        # Its digits alone may be anywhere: in the engine's name, in a figure.
        lane = rf"(?m)^ +\d+ +{serving.pid}  "
        text = screen.wait(lambda text: not re.search(lane, text), "the lane's end")
        assert figure(text, r"retired +([\d,]+)") >= recorded


def test_a_dead_worker_s_lane_stays_until_it_is_learned(name: str) -> None:
    with working(name) as (serving, learning), top(name) as screen:
        learning.kill()
        screen.wait_for("NONE ALIVE")
        backlog = rf"(?m)^ +\d+ +{serving.pid}  .* \d[\d.]* (kB|bytes)"
        screen.wait(lambda text: re.search(backlog, text), "a backlog")
        serving.kill()
        screen.wait(lambda text: re.search(rf"{serving.pid}  dead ", text), "the dead lane")


# ---- keys ----


def test_s_and_r_sort_the_lanes_and_help_says_so(busy: Busy) -> None:
    def shown(text: str) -> list[int]:
        found = map(int, re.findall(r"(?m)^ +\d+ +(\d+)  ", text))
        return [pid for pid in found if pid in busy.workers]

    rising = sorted(busy.workers)
    with top(busy.name) as screen:
        screen.wait(lambda text: len(shown(text)) == 2 and "lane ▲" in text, "lanes by index")
        screen.press("s")
        screen.wait(lambda text: "pid ▲" in text and shown(text) == rising, "lanes by pid")
        screen.press("r")
        screen.wait(lambda text: "pid ▼" in text and shown(text) == rising[::-1], "reversed")
        for column in ("recorded", "dropped", "decisions", "backlog", "lane"):
            screen.press("s")
            screen.wait_for(f"{column} ▼")
        screen.press("?")
        screen.wait_for("sort lanes by the next column", "somebody should look")
        screen.press("q")
        screen.wait(lambda text: "somebody" not in text, "the end of the help")
        assert screen.process.poll() is None


def await_decisions(engine: sona.Engine) -> None:
    """Ten of the screen's intervals and more, by the workers' clocks."""
    decided = engine.stats().decisions
    assert wait_until(lambda: engine.stats().decisions > decided + 500, PATIENCE)


def test_p_and_space_hold_the_figures(busy: Busy) -> None:
    pid = busy.workers[0]
    with top(busy.name) as screen, sona.Engine.attach(busy.name) as engine:
        screen.press("p")
        screen.wait_for("paused at ", str(pid))
        await_decisions(engine)
        before = screen.text
        await_decisions(engine)
        assert screen.text == before
        screen.press(" ")
        recorded = figure(before, row_of(pid))
        text = screen.wait(lambda text: figure(text, row_of(pid)) > recorded, "moving figures")
        assert "paused" not in text


@pytest.mark.parametrize("way", ["q", "\x03", "SIGTERM"])
def test_the_end_leaves_the_terminal_as_it_was(busy: Busy, way: str) -> None:
    with top(busy.name) as screen:
        assert not screen.is_restored
        if way == "SIGTERM":
            screen.process.send_signal(signal.SIGTERM)
        else:
            screen.press(way)
        assert screen.end() == 0
        assert screen.is_restored


# ---- engines that go ----


def test_a_destroyed_engine_is_waited_for(name: str) -> None:
    sona.Engine.create(name, CONFIG).close()
    with top(name) as screen:
        screen.wait_for(f"{name}, 0 workers", "NONE ALIVE, never was one")
        sona.Engine.destroy(name)
        screen.wait_for(f"no engine '{name}' on this host", "waiting for an engine of that name")
        assert {cell.fg for cell in screen.cells("waiting for")} == {"red"}
        with sona.Engine.create(name, CONFIG, learner="inline") as engine:
            engine.route([0.1] * 8)
            text = screen.wait_for(f"{name}, 1 worker", f"process {os.getpid()}, at work")
            assert "waiting" not in text
        screen.press("q")
        assert screen.end() == 0


def test_a_replaced_engine_is_followed(name: str) -> None:
    sona.Engine.create(name, CONFIG).close()
    with top(name) as screen:
        screen.wait_for("claude-haiku-4-5-20260701")
        renamed = sona.SonaConfig(hidden_dim=4, routes=(sona.Route("new"), sona.Route("newer")))
        sona.Engine.create(name, renamed, replace=True).close()
        text = screen.wait_for(" newer ")
        assert "claude" not in text


def write_layout_version(name: str, version: int) -> None:
    """In place: who has mapped a file that is cut short gets SIGBUS."""
    with Path(f"/dev/shm/sona-{name}.c").open("r+b") as control:
        control.seek(8)
        control.write(version.to_bytes(8, "little"))


def test_an_engine_of_another_layout_is_shown_as_the_error_it_is(name: str) -> None:
    sona.Engine.create(name, CONFIG).close()
    with top(name) as screen:
        screen.wait_for(f"{name}, 0 workers")
        sona.Engine.destroy(name)
        screen.wait_for("no engine")
        # Stopped, so that it sees neither an engine that is right, nor one that is being changed.
        screen.process.send_signal(signal.SIGSTOP)
        sona.Engine.create(name, CONFIG).close()
        write_layout_version(name, LAYOUT_VERSION + 1)
        screen.process.send_signal(signal.SIGCONT)
        screen.wait_for(f"has layout version {LAYOUT_VERSION + 1}", "waiting for an engine")
        refused = sona_command("top", name, "--once")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "has layout version" in refused.stderr
        write_layout_version(name, LAYOUT_VERSION)
        screen.wait(lambda text: "waiting" not in text, "the engine again")


# ---- refusals ----


def test_without_an_engine_there_is_one_line(name: str) -> None:
    for arguments in (("--once",), ("--json",)):
        done = sona_command("top", name, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"sona: no engine '{name}' on this host")
        assert done.stderr.count("\n") == 1


def test_without_a_terminal_it_says_what_to_use(name: str) -> None:
    sona.Engine.create(name, CONFIG).close()
    done = sona_command("top", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert "use --once or --json" in done.stderr
    with terminal((80, 24), "top", name, TERM="dumb") as screen:
        assert screen.end() == 1
        assert "use --once or --json" in screen.text
        assert b"\x1b" not in screen.raw


def test_without_textual_it_names_the_extra(name: str, tmp_path: Path) -> None:
    sona.Engine.create(name, CONFIG).close()
    absent = "raise ModuleNotFoundError(\"No module named 'textual'\", name='textual')"
    (tmp_path / "textual.py").write_text(absent)
    path = f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}"
    with terminal((80, 24), "top", name, PYTHONPATH=path) as screen:
        assert screen.end() == 1
        assert 'pip install "sona-shm[monitor]"' in screen.text


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "soon"])
def test_an_impossible_interval_is_refused(interval: str) -> None:
    assert sona_command("top", "engine", f"--interval={interval}").returncode == 2


# ---- without a terminal ----


def test_once_prints_the_tables_with_rates(busy: Busy) -> None:
    done = sona_command("top", busy.name, "--once", *INTERVAL)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert f"process {busy.learner}, at work" in done.stdout
    assert re.search(r"[1-9][\d.]*/s decided", done.stdout)
    assert all(re.search(rf"(?m)^ *\d +{pid} ", done.stdout) for pid in busy.workers)
    assert "[red]odd" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_json_once_is_one_object_with_rates(busy: Busy) -> None:
    done = sona_command("top", busy.name, "--once", "--json", *INTERVAL)
    (line,) = done.stdout.splitlines()
    printed = json.loads(line)
    with sona.Engine.attach(busy.name) as engine:
        assert set(printed) == set(engine.stats().to_mapping()) | {"rates"}
    assert printed["rates"]["decisions"] > 0
    assert printed["rates"]["seconds"] >= 0.05


def test_json_goes_on_whatever_becomes_of_the_engine(name: str) -> None:
    command = [sys.executable, "-m", "sona_shm.cli", "top", name, "--json", *INTERVAL]
    engine = sona.Engine.create(name, CONFIG)
    with engine, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["decisions"] == 0
        engine.route([0.1] * 8)
        looks = map(json.loads, process.stdout)
        assert next(look for look in looks if look["decisions"] == 1)["name"] == name
        sona.Engine.destroy(name)
        problems = (look["problem"] for look in looks if "problem" in look)
        assert next(text for text in problems if "no engine" in text)
        sona.Engine.create(name, CONFIG).close()
        assert next(look for look in looks if "problem" not in look)["decisions"] == 0
        # Nobody reads any more: it ends, and complains of nothing.
        process.stdout.close()
        process.wait(PATIENCE)


# ---- harmlessness ----


def test_looking_writes_nothing_and_takes_no_lane(name: str) -> None:
    with sona.Engine.create(name, CONFIG) as engine:
        engine.feedback(engine.route([0.1] * 8).id, 0.5)

        def content() -> list[bytes]:
            kinds = ("control", "ring", "weights")
            return [bytes(engine._memory.buffer(kind)) for kind in kinds]

        before = content()
        with contextlib.closing(Watch(name)) as watch:
            looks = [watch.look() for _ in range(3)]
            assert [lane.pid for look in looks if look.stats for lane in look.stats.lanes] == (
                [os.getpid()] * 3
            )
        with top(name) as screen:
            screen.wait_for("1 worker")
            assert len(engine.stats().lanes) == 1
            screen.press("sspp")
            screen.wait_for("recorded ▲")
            screen.press("q")
            assert screen.end() == 0
        assert content() == before
