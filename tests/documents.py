"""The documents that users read, and the commands and code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from tests.conftest import ROOT

FILES: Final = sorted(
    path
    for pattern in ("README.md", "docs/*.md", "tools/**/README.md", "examples/**/README.md")
    for path in ROOT.glob(pattern)
)
_COMMAND: Final = re.compile(
    r"(?:\.venv/bin/)?(?:sona|gunicorn|uvicorn|python) "
    r"|(?:make|docker|curl|systemctl|journalctl|loginctl|pip install|cd|prom\w+) |\.ci/run"
)
_BLOCK: Final = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE: Final = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_COMMENT: Final = re.compile(r"\s+#\s.*$")


class Block(NamedTuple):
    """A fenced block."""

    file: str
    language: str
    text: str


def blocks(language: str) -> list[Block]:
    """Every block of a language, in the order of files and of lines."""
    return [
        Block(str(path.relative_to(ROOT)), language, text)
        for path in FILES
        for _, found, text in _BLOCK.findall(path.read_text(encoding="utf-8"))
        if found == language
    ]


def _commands_of_block(language: str, text: str) -> Iterator[str]:
    """Every line of a shell block; those that look like commands where no language is named."""
    for line in text.replace("\\\n", " ").splitlines():
        command = _COMMENT.sub("", line.strip().removeprefix("$ "))
        if language == "console" and not line.strip().startswith("$ "):
            continue  # what the command prints
        if command and (language or _COMMAND.match(command)):
            yield command


def commands() -> dict[str, set[str]]:
    """Every command, and the documents that have it."""
    found: dict[str, set[str]] = {}
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        here = [code for _, code in _INLINE.findall(_BLOCK.sub("", text)) if _COMMAND.match(code)]
        for _, language, block in _BLOCK.findall(text):
            if language in ("", "sh", "console"):
                here += _commands_of_block(language, block)
        for command in here:
            found.setdefault(command, set()).add(str(path.relative_to(ROOT)))
    return found
