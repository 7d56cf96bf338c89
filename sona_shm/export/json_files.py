"""Strict JSON, one object a file or a line, whose fields are checked as they are read."""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from sona_shm.errors import ExportError, NonFiniteError

_LARGEST_INTEGER: Final = 2**63 - 1


class Fields:
    """The fields of one JSON object, and where it was read, which every error names.

    Parameters
    ----------
    place : str
        Such as ``"patterns.jsonl, line 3"``.
    value : object
        What was parsed there.

    Examples
    --------
    >>> Fields("here", {"size": 3}).integer("size", low=4)
    Traceback (most recent call last):
        ...
    sona_shm.errors.ExportError: here: size is 3, expected an integer from 4 to 9223372036854775807
    """

    def __init__(self, place: str, value: object) -> None:
        if not isinstance(value, dict):
            raise ExportError(f"{place} holds {reprlib.repr(value)}, expected a JSON object")
        self.place = place
        self._values: dict[str, Any] = value

    def refusal(self, name: str, expected: str) -> ExportError:
        """The error that says what a field is and what it should be."""
        given = f"is {reprlib.repr(self._values[name])}" if name in self._values else "is missing"
        return ExportError(f"{self.place}: {name} {given}, expected {expected}")

    def get(self, name: str, default: object) -> object:
        """A field as it was parsed."""
        return self._values.get(name, default)

    def number(self, name: str, low: float = -math.inf) -> float:
        """A finite number of at least `low`."""
        value = self._values.get(name)
        if not _is_number(value) or not math.isfinite(value) or value < low:
            bound = "" if low == -math.inf else f" of at least {low:g}"
            raise self.refusal(name, f"a finite number{bound}")
        return float(value)

    def integer(self, name: str, low: int = 0, high: int = _LARGEST_INTEGER) -> int:
        """An integer from `low` to `high`."""
        value = self._values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.refusal(name, f"an integer from {low} to {high}")
        return value

    def text(self, name: str, choices: Sequence[str] = ()) -> str:
        """A string that is not empty; one of `choices` where there are any."""
        value = self._values.get(name)
        if not isinstance(value, str) or not value or (choices and value not in choices):
            expected = f"one of {', '.join(choices)}" if choices else "a string that is not empty"
            raise self.refusal(name, expected)
        return value

    def vector(self, name: str) -> NDArray[np.float32]:
        """A list of at least one number that is finite in float32."""
        value = self._values.get(name)
        if not isinstance(value, list) or not value or not all(map(_is_number, value)):
            raise self.refusal(name, "a list of numbers")
        with np.errstate(over="ignore"):
            array = np.array(value, np.float64).astype(np.float32)
        if not np.isfinite(array).all():
            raise self.refusal(name, "numbers within the range of float32")
        return array

    def table(self, name: str) -> dict[str, Fields]:
        """An object of objects."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise self.refusal(name, "a JSON object")
        return {key: Fields(f"{self.place}, {name}, {key}", row) for key, row in value.items()}


def _is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a number, and no integer that is too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= _LARGEST_INTEGER


def _refuse_constant(token: str) -> object:
    raise ValueError(f"{token} is no number of JSON")


def _parse(content: bytes, place: str) -> Fields:
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{place} is no JSON: {error}") from None
    return Fields(place, value)


def read_object(path: str | os.PathLike[str]) -> Fields:
    """The one object of a JSON file.

    Raises
    ------
    ExportError
        If the file cannot be read, or is something else.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "one.json")
    >>> _ = path.write_text('{"size": 3}')
    >>> read_object(path).integer("size")
    3
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from None
    return _parse(content, str(path))


def read_lines(path: str | os.PathLike[str]) -> Iterator[Fields]:
    """The objects of a JSONL file, one a line.

    Raises
    ------
    ExportError
        If the file cannot be read, or a line is no JSON object.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "two.jsonl")
    >>> write_lines(path, [{"size": 3}, {"size": 4}])
    >>> [row.integer("size") for row in read_lines(path)]
    [3, 4]
    """
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                yield _parse(line, f"{path}, line {number}")
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from None


def write_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    r"""Write a JSONL file: UTF-8, one object a line.

    Raises
    ------
    NonFiniteError
        If a row holds NaN or infinity, for which JSON has no number.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "one.jsonl")
    >>> write_lines(path, [{"name": "größer", "size": 0.5}])
    >>> path.read_text(encoding="utf-8")
    '{"name": "größer", "size": 0.5}\n'
    """
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows, 1):
            try:
                line = json.dumps(row, ensure_ascii=False, allow_nan=False)
            except ValueError:
                raise NonFiniteError(
                    f"what belongs into line {number} of {path.name} holds NaN or infinity, "
                    "expected finite numbers"
                ) from None
            file.write(line + "\n")
