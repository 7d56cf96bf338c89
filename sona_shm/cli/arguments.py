"""Arguments, and types of them, that more than one command takes."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sona_shm.checkpoint.saver import CheckpointPlan


def whole_number(low: int) -> Callable[[str], int]:
    """An integer of at least `low`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"{value} is below {low}")
        return value

    return parse


def _positive(unit: str) -> Callable[[str], float]:
    """A number above 0, of something that the message names."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of {unit}") from None
        if not 0.0 < value <= 1e9:
            raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1e9")
        return value

    return parse


seconds = _positive("seconds")
per_second = _positive("requests a second")


def file_path(text: str) -> Path:
    """A path that a file system can have."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    return Path(text)


def _setting(text: str) -> tuple[str, Any]:
    """A setting as TOML would have it; a bare word is a string."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def add_settings(parser: argparse.ArgumentParser, example: str) -> None:
    """``--set KEY=VALUE``, again and again: a list ``settings`` of pairs."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        type=_setting,
        dest="settings",
        help=f"one setting of the configuration, such as {example}; repeatable",
    )


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """How often checkpoints are made and how many are kept."""
    parser.add_argument(
        "--every",
        metavar="SECONDS",
        type=seconds,
        help="time between two checkpoints (300); none is made where nothing was learned",
    )
    parser.add_argument(
        "--keep", metavar="N", type=whole_number(1), help="checkpoints that are kept (5)"
    )


def plan_of(options: argparse.Namespace, directory: Path) -> CheckpointPlan:
    """The plan of a command line, with defaults for what was not given."""
    default = CheckpointPlan(directory)
    return CheckpointPlan(directory, options.every or default.every, options.keep or default.keep)
