"""Real servers in processes of their own: their log, their children, one request to them."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sona_shm.shm.waiting import wait_until
from tests.conftest import ROOT

PATIENCE: Final = 60.0


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _children(pid: int) -> list[int]:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in words if is_running(int(word))]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@dataclasses.dataclass
class Server:
    """A server's master process and its log."""

    process: subprocess.Popen[bytes]
    log_file: Path
    seen: set[int] = dataclasses.field(default_factory=set)

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def await_log(self, pattern: str, count: int = 1) -> list[Any]:
        """Wait until the log has as many matches; all of them."""

        def found() -> bool:
            return len(re.findall(pattern, self.log)) >= count or self.process.poll() is not None

        wait_until(found, PATIENCE)
        matches = re.findall(pattern, self.log)
        assert len(matches) >= count, f"{len(matches)} times {pattern!r} in:\n{self.log}"
        return matches

    @property
    def port(self) -> int:
        """Where it listens."""
        (port, *_) = self.await_log(r"(?:Listening at:|running on) http://127\.0\.0\.1:(\d+)")
        return int(port)

    def _split(self) -> tuple[list[int], list[int]]:
        learners: list[int] = []
        others: list[int] = []
        for pid in _children(self.process.pid):
            words = _command_line(pid)
            (learners if "sona_shm.cli" in words else others).append(pid)
        self.seen |= {*learners, *others}
        return learners, others

    @property
    def learners(self) -> list[int]:
        """Process ids of living learners."""
        return self._split()[0]

    @property
    def workers(self) -> list[int]:
        """Process ids of living workers."""
        return self._split()[1]

    def get(self, path: str = "/") -> Any:
        """The JSON that it answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200, content
            return json.loads(content)
        finally:
            connection.close()

    def signal(self, number: int) -> None:
        """Send the master a signal."""
        self._split()
        self.process.send_signal(number)

    def end(self) -> int:
        """SIGTERM, and the exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def assert_all_gone(self) -> None:
        """None of its processes is left that was ever seen."""
        left = self.seen
        assert wait_until(lambda: not any(map(is_running, left)), PATIENCE), [
            _command_line(pid) for pid in left if is_running(pid)
        ]


@contextmanager
def server(
    log_file: Path, *command: str, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run ``python -m *command`` until the end of the block; then nothing of it is left."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
    running = Server(process, log_file)
    try:
        yield running
    finally:
        running._split()
        if process.poll() is None:
            process.kill()
        process.wait()
        for pid in running.seen:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
