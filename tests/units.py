"""The systemd units of tools/systemd, read and run without systemd."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Final

from tests.conftest import ROOT

UNITS: Final = ROOT / "tools" / "systemd"
#: The environment that the units name, and the one that the tests run in.
INSTALLED: Final = "/opt/sona/bin/"
BIN: Final = f"{Path(sys.executable).parent}/"


class Unit:
    """A template unit with its instance and its directories filled in.

    Parameters
    ----------
    file : str
        Such as ``sona-learner@.service``.
    instance : str
        What stands behind the ``@``.
    root : Path
        What stands for ``/`` in paths of configuration and state.
    """

    def __init__(self, file: str, instance: str, root: Path) -> None:
        self._instance, self._root = instance, root
        text = (UNITS / file).read_text(encoding="utf-8")
        self._settings = re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)

    def values(self, key: str) -> list[str]:
        """All values of a setting, as written."""
        return [value for name, value in self._settings if name == key]

    def _filled_in(self, text: str) -> str:
        for variable, value in (pair.split("=", 1) for pair in self.values("Environment")):
            text = text.replace(f"${{{variable}}}", value)
        specifiers = {"%i": self._instance, "%S": f"{self._root}/var/lib", INSTALLED: BIN}
        for specifier, value in {**specifiers, "/etc/sona/": f"{self._root}/etc/sona/"}.items():
            text = text.replace(specifier, value)
        assert not re.search(r"%\w|\$\{", text), f"not filled in: {text}"
        return text

    def command(self, key: str) -> list[str]:
        """The command line of ``ExecStart`` or the like."""
        (line,) = self.values(key)
        return shlex.split(self._filled_in(line))

    def make_directories(self) -> Path:
        """What systemd makes of ``StateDirectory``."""
        (state,) = self.values("StateDirectory")
        directory = Path(self._filled_in(f"%S/{state}"))
        directory.mkdir(parents=True, mode=int(self.values("StateDirectoryMode")[0], 8))
        return directory
