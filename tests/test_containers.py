"""Containers that share an engine: the files of tools/docker, and what they rely on."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import sona_shm as sona
from sona_shm.cli.main import build_parser
from sona_shm.shm.waiting import wait_until
from tests.children import PATIENCE, SMALL, end, hear
from tests.conftest import ROOT
from tests.serving import serving
from tests.test_cli import sona_command, start_learner

FILES = ROOT / "tools" / "docker"
DOCKERFILE = (FILES / "Dockerfile").read_text()
NEEDED = json.loads(sona_command("size", str(FILES / "router.toml"), "--json").stdout)


def parsed(file: str) -> Any:
    return yaml.safe_load((FILES / file).read_text())


# ---- the files ----


def test_an_image_can_be_built() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode != 0:
        pytest.skip("no Docker engine answers: install and start one")
    build = [docker, "build", "--quiet", "--file", str(FILES / "Dockerfile"), str(ROOT)]
    image = subprocess.run(build, capture_output=True, text=True, check=True).stdout.strip()
    asked = [docker, "run", "--rm", image, "size", "--json"]
    size = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert json.loads(size)["bytes"] == sona.SonaConfig().nbytes()


def test_the_build_context_has_what_a_build_reads() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", "sona_shm", "tools/build_backend.py", project["readme"]}
    ignored = (FILES / "Dockerfile.dockerignore").read_text().splitlines()
    admitted = [line[1:] for line in ignored if line.startswith("!")]
    for path in needed | set(project["license-files"]):
        assert (ROOT / path).exists()
        assert any(fnmatch.fnmatch(path, pattern) for pattern in admitted), path


def test_compose_shares_the_memory_of_a_container_that_stays() -> None:
    services = parsed("compose.yaml")["services"]
    owner = services.pop("memory")
    assert owner["ipc"] == "shareable"
    assert int(owner["shm_size"].rstrip("m")) >= NEEDED["shm_size_mib"]
    assert {service["ipc"] for service in services.values()} == {"service:memory"}
    options = build_parser().parse_args(services["learner"]["command"])
    assert (options.name, options.create) == ("router", Path("/etc/sona/router.toml"))
    assert "restart" not in owner  # its restart would be a new /dev/shm for nobody


def test_a_pod_shares_a_memory_volume() -> None:
    spec = parsed("pod.yaml")["spec"]
    (shm,) = [volume for volume in spec["volumes"] if volume["name"] == "shm"]
    assert shm["emptyDir"]["medium"] == "Memory"
    assert int(shm["emptyDir"]["sizeLimit"].rstrip("Mi")) >= NEEDED["shm_size_mib"]
    for container in spec["containers"]:
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["shm"] == "/dev/shm"
        if "args" in container:
            build_parser().parse_args(container["args"])
    assert f"--uid {spec['securityContext']['runAsUser']} " in DOCKERFILE


def test_the_worker_learns_with_the_learner_of_another_container(name: str, tmp_path: Path) -> None:
    (tmp_path / "engine.toml").write_text((FILES / "router.toml").read_text())
    script = tmp_path / "worker.py"
    script.write_text((FILES / "worker.py").read_text().replace('"router"', f'"{name}"'))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as worker:
        learner = start_learner(name, "--create", str(tmp_path / "engine.toml"))
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline().startswith("100 requests here; mean rewards")
        finally:
            worker.kill()
            learner.terminate()
            learner.communicate(timeout=PATIENCE)
    assert learner.returncode == 0


def test_the_monitor_answers_from_outside_its_container(name: str) -> None:
    services = parsed("compose.yaml")["services"]
    command, engine, *arguments = services["monitor"]["command"]
    assert (command, engine) == ("serve", "router")
    assert services["monitor"]["ports"] == ["127.0.0.1:9464:9464"]  # the host's own, and no more
    with serving(name, *arguments) as server:
        assert server.metric("sona_engine_up") == 0
        assert server.get("/metrics", Host="router-monitor:9464").status == 200


@pytest.mark.parametrize("file", ["tools/docker/Dockerfile", "docs/systemd.md"])
def test_what_is_installed_can_also_be_monitored(file: str) -> None:
    installs = re.findall(r"/opt/sona/bin/pip install (.+)$", (ROOT / file).read_text(), re.M)
    assert installs
    assert all("[monitor]" in what for what in installs)


# ---- pid namespaces ----


def in_another_pid_namespace() -> list[str]:
    command = ["unshare", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare command: install util-linux")
    probe = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no pid namespace can be made here: {probe.stderr.strip()}")
    return command


def test_liveness_does_not_depend_on_pids(name: str) -> None:
    """A worker that is process 1 of its namespace is alive until it is killed."""
    namespace = in_another_pid_namespace()
    code = """
import os, sys
import sona_shm as sona
engine = sona.Engine.attach(sys.argv[1])
engine.route([0.1] * 8)
print(os.getpid(), flush=True)
sys.stdin.readline()
"""
    with sona.Engine.create(name, SMALL) as engine:
        command = [*namespace, sys.executable, "-c", code, name]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as worker:
            try:
                assert hear(worker) == "1"
                (lane,) = engine.stats().lanes
                assert (lane.alive, lane.pid) == (True, 1)
                refused = sona_command("destroy", name)
                assert (refused.returncode, "worker 1" in refused.stderr) == (1, True)
            finally:
                end(worker)
        assert wait_until(lambda: not engine.stats().lanes, PATIENCE)
