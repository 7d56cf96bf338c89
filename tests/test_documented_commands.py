"""Every command in the documents is run, or has a place that runs it.

A new command is one line of the table: the command as the document has it, and a way to run it
(tests/documented_ways.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.documented_ways import (
    Place,
    Way,
    a_checkpoint,
    a_checkpoint_and_its_engine,
    a_journal,
    a_learner,
    an_engine,
    as_written,
    command_exists,
    daemon,
    docker_knows,
    elsewhere,
    in_a_container,
    in_a_terminal,
    in_the_clone,
    installing,
    learner_is_up,
    no_engine,
    of_pip,
    of_systemd,
    of_the_router,
    of_the_whole_host,
    of_users,
    programs_of_target,
    saver_is_up,
    script,
    stream,
    with_a_group,
)
from tests.documents import commands

SHM: Final = "-v ./engine.toml:/etc/sona/router.toml:ro"
#: An engine whose creator is dead.
HALF_MADE: Final = """
import posix_ipc
posix_ipc.SharedMemory("/sona-left.c", flags=posix_ipc.O_CREX, size=8192)
"""
CREATE: Final = "learner router --create /etc/sona/router.toml"

WAYS: Final[dict[str, Way]] = {
    # ---- sona ----
    "sona demo --data FILE.npz": as_written(no_engine, says="last quarter"),
    "sona destroy": command_exists,
    "sona destroy --dead": of_the_whole_host(HALF_MADE, says="removed"),
    "sona destroy NAME": as_written(an_engine),
    "sona destroy router": as_written(an_engine),
    "sona doctor": of_the_whole_host(HALF_MADE, says="half-made"),
    "sona doctor router": as_written(a_learner, says="learner"),
    "sona export NAME DIR": as_written(an_engine, says="preference pairs"),
    "sona export router DIR": as_written(an_engine, says="preference pairs"),
    "sona learn NAME": as_written(a_learner, says="learned from 200 outcomes"),
    "sona learn router": as_written(a_learner, says="learned from 200 outcomes"),
    "sona learner": command_exists,
    "sona learner NAME --reward MODULE:FUNCTION": daemon(an_engine, learner_is_up),
    "sona learner router --create engine.toml --checkpoint /var/lib/sona/router": daemon(
        a_checkpoint, learner_is_up
    ),
    "sona learner router --create engine.toml --checkpoint /var/lib/sona/router "
    "--journal /var/log/sona/router": daemon(a_checkpoint, learner_is_up),
    "sona learner router --create engine.toml --checkpoint DIR --journal DIR": daemon(
        no_engine, learner_is_up
    ),
    "sona replay": command_exists,
    "sona replay DIR --config other.toml": as_written(a_journal, says="doubly robust"),
    "sona replay DIR --set policy=thompson": as_written(a_journal, says="doubly robust"),
    "sona restore": command_exists,
    "sona restore router /var/lib/sona/router --replace --set max_workers=64": as_written(
        a_checkpoint_and_its_engine, says="restored"
    ),
    "sona restore router FILE": as_written(a_checkpoint, says="200 outcomes"),
    "sona restore router FILE --replace": as_written(a_checkpoint_and_its_engine, says="restored"),
    "sona restore router FILE --replace --set group=sona": with_a_group(
        a_checkpoint_and_its_engine
    ),
    "sona restore router FILE --set max_workers=64": as_written(a_checkpoint, says="restored"),
    "sona save": command_exists,
    "sona save router DIR --every 60 --keep 10": daemon(an_engine, saver_is_up),
    "sona save router FILE": as_written(an_engine, says="FILE"),
    "sona serve": command_exists,
    "sona serve NAME": command_exists,
    "sona serve router": elsewhere("tests/serving.py", '"serve", name'),
    "sona size": as_written(no_engine, says="it fits"),
    "sona size --rate 50": as_written(no_engine, says="for its feedback"),
    "sona size engine.toml": as_written(no_engine, says="--shm-size=64m"),
    "sona size engine.toml --rate 50": as_written(no_engine, says="20.5 s"),
    "sona size --set hidden_dim=384 --rate 50": as_written(no_engine, says="12.5 s"),
    "sona size engine.toml --set max_workers=64 --json": as_written(no_engine, says='"fits"'),
    "sona stats": command_exists,
    "sona stats --json": command_exists,
    "sona stats router": as_written(an_engine, says="outcomes_learned"),
    "sona top": command_exists,
    "sona top router": in_a_terminal(a_learner, says="small"),
    "sona top router --once": as_written(a_learner, says="small"),
    "sona top router --json": stream(a_learner, says='"rates"'),
    # ---- make ----
    ".ci/run": script,
    "make bench": programs_of_target("--help"),
    "make bench-routing": programs_of_target("--help"),
    "make demo": elsewhere("tests/test_demo.py", 'sona_command("demo"'),
    "make docs": elsewhere(".ci/run", "make docs"),
    "make lint": elsewhere(".ci/run", "make lint"),
    "make router": elsewhere(
        "tests/test_router_under_fire.py", '"-c", "examples/router/gunicorn.conf.py"'
    ),
    "make test": elsewhere(".ci/run", "make test"),
    "make test-peft": elsewhere("tests/test_peft.py", "make test-peft"),
    "make torture": programs_of_target("--help"),
    # ---- the example router ----
    "curl -s http://127.0.0.1:8000/v1/chat/completions -d "
    '\'{"model": "auto", "messages": [{"role": "user", "content": "fix this python bug"}]}\'': (
        of_the_router(says='"sona":{"decision_id":')
    ),
    "curl -i http://127.0.0.1:8000/feedback -d "
    '\'{"decision_id": "4307886557626745", "quality": 0.9}\'': of_the_router(says="202 Accepted"),
    "gunicorn --check-config -c gunicorn.conf.py": elsewhere(
        "tests/test_router_example.py", '"gunicorn", "--check-config"'
    ),
    "cd examples && ../.venv/bin/python -m router.simulate": of_the_router(says=" 1000  reward"),
    ".venv/bin/gunicorn --check-config -c examples/router/gunicorn.conf.py": in_the_clone,
    ".venv/bin/sona destroy router": as_written(an_engine),
    ".venv/bin/sona learner router": daemon(an_engine, learner_is_up),
    ".venv/bin/sona stats router": as_written(an_engine, says="small"),
    ".venv/bin/uvicorn --app-dir examples router.app:app --workers 4": elsewhere(
        "tests/documented_ways.py", '"--app-dir", "examples", "router.app:app"'
    ),
    # ---- installing ----
    'pip install ".[monitor]"': of_pip,
    'pip install ".[peft]"': of_pip,
    "pip install sentence-transformers": of_pip,
    # ---- prometheus ----
    "promtool test rules tools/prometheus/rules_test.yml": elsewhere(
        "tests/test_serve_metrics.py", 'promtool("test", "rules", '
    ),
    "prometheus --config.file=tools/prometheus/prometheus.yml": elsewhere(
        "tests/test_serve_metrics.py",
        'promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))',
    ),
    # ---- systemd ----
    "journalctl -u sona-learner@router": of_systemd,
    "loginctl enable-linger USER": of_systemd,
    "systemctl daemon-reload": of_systemd,
    "systemctl edit sona-learner@router": of_systemd,
    "systemctl enable --now sona-learner@router": of_systemd,
    "systemctl enable --now sona-serve@router": of_systemd,
    "systemctl stop sona-learner@router": of_systemd,
    "python3 -m venv /opt/sona": elsewhere("Makefile", "-m venv"),
    '/opt/sona/bin/pip install ".[monitor]"': elsewhere("tools/docker/Dockerfile", "pip install"),
    "useradd --system --no-create-home --shell /usr/sbin/nologin sona": of_users(
        {}, "passwd", adds="sona:"
    ),
    "groupadd sona": of_users({}, "group", adds="sona:"),
    "usermod -aG sona alice": of_users(
        {"passwd": "alice:x:1000:1000::/:/bin/sh\n", "group": "sona:x:990:\nalice:x:1000:\n"},
        "group",
        adds="sona:x:990:alice",
    ),
    "install -D -m 0644 engine.toml /etc/sona/router.toml": installing(),
    "install -m 0644 tools/systemd/*.service /etc/systemd/system/": installing(
        "mkdir -p /etc/systemd/system"
    ),
    # ---- containers ----
    "docker build -f tools/docker/Dockerfile -t sona-shm .": elsewhere(
        "tests/test_containers.py", "test_an_image_can_be_built"
    ),
    "docker compose -f tools/docker/compose.yaml up --build": elsewhere(
        "tests/test_containers.py", 'parsed("compose.yaml")'
    ),
    "docker compose -f tools/docker/compose.yaml exec learner sona stats router": elsewhere(
        "tests/test_containers.py", 'parsed("compose.yaml")'
    ),
    "docker run": docker_knows,
    "docker stop": docker_knows,
    "docker run --rm sona-shm size": in_a_container(no_engine),
    f"docker run --rm --shm-size=128m {SHM} sona-shm {CREATE}": in_a_container(no_engine),
    "docker run -d --name router-memory --init --ipc=shareable --shm-size=128m --entrypoint sleep "
    "sona-shm infinity": in_a_container(no_engine),
    f"docker run -d --name router-learner --ipc=container:router-memory {SHM} "
    f"-v router-checkpoints:/var/lib/sona sona-shm {CREATE} --checkpoint "
    "/var/lib/sona/router": in_a_container(no_engine),
    "docker run --rm --ipc=container:router-memory sona-shm stats router": in_a_container(
        an_engine
    ),
    "docker run -d --name router-monitor --ipc=container:router-memory -p 127.0.0.1:9464:9464 "
    "sona-shm serve router --host 0.0.0.0": elsewhere(
        "tests/test_containers.py", 'services["monitor"]["command"]'
    ),
}
DOCUMENTED: Final = commands()


def test_every_documented_command_has_a_way_to_run_it() -> None:
    without = {command: files for command, files in DOCUMENTED.items() if command not in WAYS}
    assert without == {}


def test_every_way_is_of_a_documented_command() -> None:
    assert [command for command in WAYS if command not in DOCUMENTED] == []


@pytest.mark.parametrize("command", sorted(WAYS))
def test_it_does_what_the_document_says(command: str, name: str, tmp_path: Path) -> None:
    WAYS[command](command, Place(name, tmp_path))
