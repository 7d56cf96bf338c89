"""A terminal of a given size, with a program in it: keys go in, the screen can be read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyte

from tests.children import ENVIRONMENT, PATIENCE

_POLL_SECONDS = 0.05
#: Without the size that a program around the tests may have set: this terminal has its own.
_ENVIRONMENT = {
    name: value for name, value in ENVIRONMENT.items() if name not in ("COLUMNS", "LINES")
} | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
#: The emulator is larger than the program is told, so that what does not fit is seen.
_MARGIN = 20


class Terminal:
    """An emulated terminal and the ``sona`` command that runs in it."""

    def __init__(self, size: tuple[int, int], *arguments: str, **variables: str) -> None:
        self.columns, self.rows = columns, rows = size
        self._screen = pyte.Screen(max(80, columns) + _MARGIN, max(24, rows) + _MARGIN)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        self._modes = termios.tcgetattr(slave)
        self._slave = slave  # held open, so that its modes can be looked at afterwards
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.raw = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sona_shm.cli", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=_ENVIRONMENT | variables,
            start_new_session=True,
        )

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Change the size as a window manager does, and forget what was shown."""
        self.columns, self.rows = columns, rows
        self._screen.erase_in_display(2)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGWINCH)

    def lines(self) -> list[str]:
        """What is on the screen by now."""
        while select.select([self._master], [], [], 0.0)[0]:
            data = os.read(self._master, 1 << 16)
            self.raw += data
            self._stream.feed(data)
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The screen as one text."""
        return "\n".join(self.lines())

    @property
    def overflows(self) -> bool:
        """Whether anything is where the program has no screen."""
        lines = self.lines()
        return any(lines[self.rows :]) or any(len(line) > self.columns for line in lines)

    def cells(self, word: str) -> list[Any]:
        """The cells of the first place where a word stands, with their colours."""
        for row, line in enumerate(self.lines()):
            if (start := line.find(word)) >= 0:
                return [self._screen.buffer[row][start + i] for i in range(len(word))]
        raise AssertionError(f"{word!r} is not on the screen:\n{self.text}")

    def wait(self, condition: Callable[[str], object], what: str = "") -> str:
        """Read until the screen is as expected; what it shows then."""
        deadline = time.monotonic() + PATIENCE
        while not condition(text := self.text):
            assert time.monotonic() < deadline, f"never came: {what}\n{text}"
            select.select([self._master], [], [], _POLL_SECONDS)
        return text

    def wait_for(self, *words: str) -> str:
        """Read until all these words are on the screen."""
        return self.wait(lambda text: all(word in text for word in words), f"{words}")

    def end(self) -> int:
        """The exit code, once it has ended."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still runs:\n{self.text}"
            self.lines()
            select.select([self._master], [], [], _POLL_SECONDS)
        self.lines()
        return self.process.returncode

    @property
    def is_restored(self) -> bool:
        """Whether the line discipline is as before, the cursor shown, the main screen back."""
        switches = (b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h")
        back = all(self.raw.rfind(on) < self.raw.rfind(off) for on, off in switches)
        return back and termios.tcgetattr(self._slave) == self._modes

    def close(self) -> None:
        """Kill what still runs."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


@contextlib.contextmanager
def terminal(size: tuple[int, int], *arguments: str, **variables: str) -> Iterator[Terminal]:
    """Columns and rows that run ``sona`` with these arguments; killed at the end."""
    running = Terminal(size, *arguments, **variables)
    try:
        yield running
    finally:
        running.close()
